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
    /// What was resized: [`UINT8`], or what else was made of the images (A23). A file says nothing of uint8,
    /// as older files do not.
    #[serde(default = "uint8", skip_serializing_if = "is_uint8")]
    pub pixels: String,
    /// Precision of the network; moments are always f64.
    pub dtype: String,
}

/// The [`pixels`](Protocol::pixels) of plain images.
pub const UINT8: &str = "uint8";

fn uint8() -> String {
    UINT8.into()
}

fn is_uint8(pixels: &str) -> bool {
    pixels == UINT8
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
    /// `source`; an error where the two were not made alike. Their pixels alone may differ: who
    /// stretches generated images leaves the reference as it is.
    pub fn against(
        &self,
        fake: &Self,
        source: Option<&str>,
        n: usize,
    ) -> Result<Map<String, Value>> {
        let pixels = match (&self.pixels, &fake.pixels) {
            (real, fake) if real == fake => fake.clone(),
            (real, fake) => format!("{fake} against {real}"),
        };
        let (mut real, fake) = (self.fields()?, fake.fields()?);
        for (name, value) in real.iter().filter(|(name, _)| *name != "pixels") {
            let other = &fake[name];
            if value != other {
                bail!("real and fake features are not comparable: {name} is {value} and {other}");
            }
        }
        real.remove("label");
        real.insert("pixels".into(), json!(pixels));
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

    fn named(label: &str) -> Protocol {
        Protocol {
            label: label.into(),
            extractor: String::new(),
            digest: String::new(),
            resize: String::new(),
            pixels: UINT8.into(),
            dtype: String::new(),
        }
    }

    #[test]
    fn only_official_features_give_official_names() {
        let of = |label| named(label).label_of("KID", "kernel distance");
        assert_eq!(of("FID"), "KID");
        let classifier = "Fréchet distance (classifier features)";
        assert_eq!(of(classifier), "kernel distance (classifier features)");
    }

    /// Every number says what was done to which side, so that a column refuses to mix them.
    #[test]
    fn either_side_may_be_stretched_and_the_number_says_which() -> Result<()> {
        let of = |pixels: &str| Protocol {
            pixels: pixels.into(),
            ..named("FID")
        };
        let said = |real, fake| -> Result<Value> {
            Ok(of(real).against(&of(fake), None, 1)?["pixels"].clone())
        };
        let stretched = "float stretched min-max";
        assert_eq!(said(UINT8, UINT8)?, "uint8");
        assert_eq!(
            said(UINT8, stretched)?,
            "float stretched min-max against uint8"
        );
        assert_eq!(
            said(stretched, UINT8)?,
            "uint8 against float stretched min-max"
        );
        assert_eq!(said(stretched, stretched)?, stretched);
        Ok(())
    }
}
