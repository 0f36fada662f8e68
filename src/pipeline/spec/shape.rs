//! Reading values of a given shape out of nodes, with an error at the place where one is not.

use super::node::{Entry, Node, Table, Value};
use super::{Named, Profile, names, texts, without};
use crate::base::diag::{Diagnostic, Source, suggest};
use crate::base::plain;

pub struct Reader<'a>(pub &'a Source);

/// What `[pipeline]` says.
#[derive(Debug, Default)]
pub struct Head {
    pub name: String,
    pub title: String,
    pub default: Option<String>,
    pub profiles: Vec<Profile>,
    pub watch: Vec<Named>,
    pub ignore: Vec<Named>,
    pub environment: Vec<Named>,
}

type Result<T> = std::result::Result<T, Diagnostic>;

impl Reader<'_> {
    pub fn table<'n>(&self, what: &str, node: &'n Node) -> Result<&'n Table> {
        node.table()
            .ok_or_else(|| self.wants(what, "a table", node))
    }

    pub fn owned_table(&self, entry: Entry) -> Result<Table> {
        match entry.node.value {
            Value::Table(table) => Ok(table),
            _ => Err(self.wants(&entry.key, "a table", &entry.node)),
        }
    }

    pub fn text<'n>(&self, what: &str, node: &'n Node) -> Result<&'n str> {
        node.text()
            .ok_or_else(|| self.wants(what, "a string", node))
    }

    pub fn count(&self, what: &str, node: &Node) -> Result<u64> {
        match node.value {
            Value::Int(i) if i >= 0 => Ok(i as u64),
            _ => Err(self.wants(what, "a whole number, 0 or more", node)),
        }
    }

    /// `"4 GiB"`, `"500 MB"`, or a number of bytes.
    pub fn bytes(&self, what: &str, node: &Node) -> Result<u64> {
        let Some(text) = node.text() else {
            return self.count(what, node);
        };
        crate::base::human::parse_bytes(text)
            .ok_or_else(|| self.wants(what, "a size such as \"4 GiB\"", node))
    }

    pub fn wants(&self, what: &str, shape: &str, node: &Node) -> Diagnostic {
        let message = format!("`{what}` must be {shape}, not {}", node.what());
        self.0.error(&node.span, message)
    }

    /// Fails at the first key that is not among `known`.
    pub fn known_keys(&self, of: &str, table: &Table, known: &[&str]) -> Result<()> {
        match table.0.iter().find(|e| !known.contains(&e.key.as_str())) {
            None => Ok(()),
            Some(entry) => Err(self.unknown(of, entry, known)),
        }
    }

    pub fn unknown(&self, of: &str, entry: &Entry, known: &[&str]) -> Diagnostic {
        self.0
            .error(&entry.key_span, format!("{of} has no `{}`", entry.key))
            .hint(suggest(&entry.key, known.iter().copied()))
    }

    /// `[pipeline]`.
    pub fn head(&self, head: Option<&Table>) -> Result<Head> {
        let mut found = Head::default();
        let empty = Table::default();
        let head = head.unwrap_or(&empty);
        let known = [
            "name",
            "title",
            "profile",
            "profiles",
            "watch",
            "ignore",
            "environment",
        ];
        self.known_keys("[pipeline]", head, &known)?;
        for entry in &head.0 {
            match entry.key.as_str() {
                "name" => found.name = self.text("name", &entry.node)?.into(),
                "title" => found.title = self.text("title", &entry.node)?.into(),
                "profile" => {
                    let name = self.text("profile", &entry.node)?;
                    if let Some(why) = names::problem(name, &['/', '\\']) {
                        let message = format!("a profile cannot be called so: {why}");
                        return Err(self.0.error(&entry.node.span, message));
                    }
                    found.default = Some(name.into());
                }
                "watch" => found.watch = self.paths(entry)?,
                "ignore" => found.ignore = self.paths(entry)?,
                "environment" => found.environment = self.paths(entry)?,
                _ => {
                    for profile in &self.table("profiles", &entry.node)?.0 {
                        if let Some(why) = names::problem(&profile.key, &['/', '\\']) {
                            let name = plain::cut(&profile.key, 50);
                            let message = format!("a profile cannot be called `{name}`: {why}");
                            return Err(self.0.error(&profile.key_span, message));
                        }
                        found.profiles.push(self.profile_head(profile)?);
                    }
                }
            }
        }
        if found.profiles.is_empty() {
            found.profiles.push(Profile {
                name: found.default.clone().unwrap_or_else(|| "default".into()),
                ..Profile::default()
            });
        }
        Ok(found)
    }

    fn paths(&self, entry: &Entry) -> Result<Vec<Named>> {
        let list = texts(&entry.node)
            .ok_or_else(|| self.wants(&entry.key, "a string or a list of strings", &entry.node))?;
        let named = list.into_iter().map(|(text, span)| Named {
            text: text.to_owned(),
            span: span.clone(),
        });
        Ok(named.collect())
    }

    fn profile_head(&self, entry: &Entry) -> Result<Profile> {
        let mut profile = Profile {
            name: entry.key.clone(),
            ..Profile::default()
        };
        if let Some(about) = entry.node.text() {
            profile.about = about.into();
            return Ok(profile);
        }
        let table = self.table(&entry.key, &entry.node)?;
        let known = ["about", "device", "takes", "data", "without"];
        self.known_keys("a profile", table, &known)?;
        for field in &table.0 {
            if field.key == "without" {
                profile.without = self.paths(field)?;
                continue;
            }
            let text = self.text(&field.key, &field.node)?.to_owned();
            match field.key.as_str() {
                "about" => profile.about = text,
                "device" if text != "cuda" && text != "cpu" => {
                    let message = format!("a profile's device is `cuda` or `cpu`, not `{text}`");
                    return Err(self.0.error(&field.node.span, message));
                }
                "device" => profile.device = Some(text),
                "takes" => profile.takes = Some(text),
                _ => profile.data = Some(text),
            }
        }
        Ok(profile)
    }

    /// The table of the chosen profile, after all of them were checked for stages that exist.
    pub fn profile<'n>(
        &self,
        section: &'n Node,
        chosen: &Profile,
        profiles: &[Profile],
        stages: &Table,
    ) -> Result<Option<&'n Table>> {
        let section = self.table("profile", section)?;
        let names: Vec<&str> = profiles.iter().map(|p| p.name.as_str()).collect();
        let stage_names: Vec<&str> = stages.keys().collect();
        for profile in &section.0 {
            if !names.contains(&profile.key.as_str()) {
                let message = format!("[pipeline] names no profile `{}`", profile.key);
                let hint = suggest(&profile.key, names);
                return Err(self.0.error(&profile.key_span, message).hint(hint));
            }
            for stage in &self.table(&profile.key, &profile.node)?.0 {
                let Some(declared) = stages.get(&stage.key).and_then(Node::table) else {
                    let message = format!("there is no stage `{}`", stage.key);
                    let hint = suggest(&stage.key, stage_names.iter().copied());
                    return Err(self.0.error(&stage.key_span, message).hint(hint));
                };
                let over = self.table(&stage.key, &stage.node)?;
                if let Some(at) = over.get("at") {
                    self.axis_values(&stage.key, declared, self.table("at", at)?)?;
                }
            }
        }
        Ok(section.get(&chosen.name).and_then(Node::table))
    }

    /// Fails at a key of `at` that is no value of one of the stage's axes.
    pub fn axis_values(&self, stage: &str, declared: &Table, at: &Table) -> Result<()> {
        let mut values = Vec::new();
        for axis in declared
            .get("for")
            .and_then(Node::table)
            .iter()
            .flat_map(|t| &t.0)
        {
            if let Value::List(items) = &axis.node.value {
                values.extend(items.iter().map(Node::label));
            }
        }
        for entry in &at.0 {
            if !values.contains(&entry.key) {
                let message = format!("no axis of stage `{stage}` has the value `{}`", entry.key);
                let mut hint = suggest(&entry.key, values.iter().map(String::as_str));
                if values
                    .iter()
                    .any(|v| v.starts_with(&format!("{}.", entry.key)))
                {
                    hint += "; a value with a dot is written in quotes: at.\"0.1\"";
                }
                return Err(self.0.error(&entry.key_span, message).hint(hint));
            }
            self.table(&entry.key, &entry.node)?;
        }
        Ok(())
    }

    /// What a profile's entry for a stage overrides, for the instance with these axis values.
    pub fn overrides(&self, over: &Table, values: &[String]) -> Table {
        let mut params = without(over, &["at"]);
        if let Some(at) = over.get("at").and_then(Node::table) {
            for entry in at.0.iter().filter(|e| values.contains(&e.key)) {
                if let Some(table) = entry.node.table() {
                    params.merge(table);
                }
            }
        }
        params
    }
}
