//! How features were made, which every number about them carries.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Two sets of features are comparable only where all of this agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// What a Fréchet distance in these features may be called, such as `FID`.
    pub label: String,
    /// Name of the feature network.
    pub extractor: String,
    /// BLAKE3 of its weights.
    pub digest: String,
    pub resize: String,
    /// Precision of the network; moments are always f64.
    pub dtype: String,
}

impl Protocol {
    /// What another number in these features may be called: `official` where a Fréchet distance
    /// is an FID, else `plain` with the name of the features.
    pub fn label_of(&self, official: &str, plain: &str) -> String {
        match self.label.strip_prefix("Fréchet distance") {
            Some(features) => format!("{plain}{features}"),
            None => official.into(),
        }
    }

    /// The protocol of a number that compares `fake` with `self`, features of `n` images from
    /// `source`; an error where the two were not made alike.
    pub fn against(
        &self,
        fake: &Self,
        source: Option<&str>,
        n: usize,
    ) -> Result<Map<String, Value>> {
        let (mut real, fake) = (self.fields()?, fake.fields()?);
        for (name, value) in &real {
            let other = &fake[name];
            if value != other {
                bail!("real and fake features are not comparable: {name} is {value} and {other}");
            }
        }
        real.remove("label");
        real.insert("reference".into(), json!(source));
        real.insert("n_reference".into(), json!(n));
        Ok(real)
    }

    fn fields(&self) -> Result<Map<String, Value>> {
        let value = serde_json::to_value(self)?;
        let fields = value.as_object().context("BUG: a protocol is an object")?;
        Ok(fields.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_official_features_give_official_names() {
        let named = |label: &str| Protocol {
            label: label.into(),
            extractor: String::new(),
            digest: String::new(),
            resize: String::new(),
            dtype: String::new(),
        };
        let of = |label| named(label).label_of("KID", "kernel distance");
        assert_eq!(of("FID"), "KID");
        let classifier = "Fréchet distance (classifier features)";
        assert_eq!(of(classifier), "kernel distance (classifier features)");
    }
}
