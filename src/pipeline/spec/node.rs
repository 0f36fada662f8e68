//! A TOML value that remembers where it was written.

use std::ops::Range;

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::{Map, Number};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{braces, budget};
use crate::base::diag::{Diagnostic, Source};

#[derive(Debug, Clone)]
pub struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Table),
}

/// Entries in the order in which the file has them.
#[derive(Debug, Clone, Default)]
pub struct Table(pub Vec<Entry>);

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

/// Parses a whole file.
pub fn parse(source: &Source) -> Result<DeTable<'_>, Diagnostic> {
    budget::check_depth(source)?;
    let table = DeTable::parse(source.text()).map_err(|e| mistake(source, e))?;
    Ok(table.into_inner())
}

/// Takes a section out of a file, for those who know what it must look like.
pub fn section<T: DeserializeOwned + Default>(
    file: &mut DeTable<'_>,
    name: &str,
    source: &Source,
) -> Result<T, Diagnostic> {
    match file.remove(name) {
        Some(value) => T::deserialize(value.into_deserializer()).map_err(|e| mistake(source, e)),
        None => Ok(T::default()),
    }
}

fn mistake(source: &Source, e: toml::de::Error) -> Diagnostic {
    let span = e.span().unwrap_or(0..0);
    source.error(&span, e.message().replace('\n', " "))
}

/// Parses one value that stands at `span`; anything that is not TOML, and a date, is a string.
pub fn parse_value(source: &Source, text: &str, span: Range<usize>) -> Result<Node, Diagnostic> {
    let own = Source::new("", text.trim().into());
    budget::check_depth(&own).map_err(|e| source.error(&span, e.message))?;
    let parsed = DeValue::parse(own.text()).ok();
    let mut node = match parsed.filter(|v| !matches!(v.get_ref(), DeValue::Datetime(_))) {
        Some(value) => read(value, &own).map_err(|e| source.error(&span, e.message))?,
        None => Node {
            span: span.clone(),
            value: Value::Text(text.into()),
        },
    };
    node.move_to(&span);
    Ok(node)
}

pub fn read_table(table: DeTable<'_>, source: &Source) -> Result<Table, Diagnostic> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        entries.push(Entry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            node: read(value, source)?,
        });
    }
    entries.sort_by_key(|e| e.key_span.start);
    Ok(Table(entries))
}

fn read(value: Spanned<DeValue<'_>>, source: &Source) -> Result<Node, Diagnostic> {
    let span = value.span();
    let wrong = |what: &str| source.error(&span, what);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Boolean(b) => Value::Bool(b),
        DeValue::Integer(i) => Value::Int(
            i64::from_str_radix(i.as_str(), i.radix())
                .map_err(|_| wrong("this integer does not fit 64 bits"))?,
        ),
        DeValue::Float(f) => Value::Float(
            (f.as_str().parse().ok())
                .filter(|f: &f64| f.is_finite())
                .ok_or_else(|| wrong("only finite numbers can be parameters"))?,
        ),
        DeValue::Datetime(_) => return Err(wrong("dates have no use here; write a string")),
        DeValue::Array(items) => Value::List(
            items
                .into_iter()
                .map(|item| read(item, source))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => Value::Table(read_table(table, source)?),
    };
    Ok(Node { span, value })
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.node)
    }

    /// What stands at `a.b.c`.
    pub fn find(&self, path: &str) -> Option<&Node> {
        match path.split_once('.') {
            Some((key, rest)) => self.get(key)?.table()?.find(rest),
            None => self.get(path),
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|e| e.key == key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|e| e.key.as_str())
    }

    /// A table with a `kind` replaces the one it overrides; any other is merged into it. What is replaced
    /// is written where its successor is.
    pub fn merge(&mut self, over: &Table) {
        for new in &over.0 {
            let Some(old) = self.0.iter_mut().find(|e| e.key == new.key) else {
                self.0.push(new.clone());
                continue;
            };
            match (&mut old.node.value, &new.node.value) {
                (Value::Table(inner), Value::Table(over)) if over.get("kind").is_none() => {
                    inner.merge(over);
                }
                _ => *old = new.clone(),
            }
        }
    }

    pub fn weight(&self) -> usize {
        let entries = self.0.iter();
        entries
            .map(|e| 1 + e.key.len() / 64 + e.node.weight())
            .sum()
    }

    /// Sets `a.b.c`, making the tables on the way.
    pub fn set(&mut self, path: &str, node: Node) {
        let (key, rest) = match path.split_once('.') {
            Some((key, rest)) => (key, Some(rest)),
            None => (path, None),
        };
        let span = node.span.clone();
        let node = match rest {
            None => node,
            Some(rest) => {
                let mut inner = Table::default();
                inner.set(rest, node);
                Node {
                    span: span.clone(),
                    value: Value::Table(inner),
                }
            }
        };
        self.merge(&Table(vec![Entry {
            key: key.into(),
            key_span: span,
            node,
        }]));
    }

    /// The paths of all that is no table: `optim.lr`.
    pub fn paths(&self) -> Vec<String> {
        let inner = |entry: &Entry| match entry.node.table() {
            Some(table) => {
                let paths = table.paths().into_iter();
                paths.map(|path| format!("{}.{path}", entry.key)).collect()
            }
            None => vec![entry.key.clone()],
        };
        self.0.iter().flat_map(inner).collect()
    }

    /// Where `optim.lr` was written: the deepest part of the path that exists.
    pub fn span_of(&self, path: &str) -> Option<Range<usize>> {
        let mut found = None;
        let mut table = self;
        for key in path.split('.').filter(|key| !key.is_empty()) {
            let Some(entry) = table.entry(key) else { break };
            found = Some(entry.key_span.clone());
            match &entry.node.value {
                Value::Table(inner) => table = inner,
                _ => break,
            }
        }
        found
    }

    pub fn to_json(&self) -> serde_json::Value {
        let entries = self.0.iter().map(|e| (e.key.clone(), e.node.to_json()));
        serde_json::Value::Object(entries.collect::<Map<_, _>>())
    }
}

impl Node {
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// What it is, for error messages.
    pub fn what(&self) -> &'static str {
        match self.value {
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    fn move_to(&mut self, span: &Range<usize>) {
        self.span = span.clone();
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.move_to(span)),
            Value::Table(table) => {
                for entry in &mut table.0 {
                    entry.key_span = span.clone();
                    entry.node.move_to(span);
                }
            }
            _ => {}
        }
    }

    /// Puts the values of axes in the place of `{axis}`, and `{axis}` in that of `{{axis}}`. A string that
    /// is nothing else takes the value's type. Where `later` says that more is filled in when
    /// the program is started, values keep their braces until then.
    pub fn substitute(&mut self, axes: &[(String, Node)], later: bool) {
        match &mut self.value {
            Value::Text(text) if text.contains('{') => {
                let value = |name: &str| axes.iter().find(|(axis, _)| axis == name);
                let written = |value: &Node| match later {
                    true => braces::escape(&value.label()),
                    false => value.label(),
                };
                if let [hole] = &braces::holes(text)[..]
                    && hole.range == (0..text.len())
                    && hole.braces == 1
                    && let Some((_, value)) = value(hole.name)
                {
                    self.value = match &value.value {
                        Value::Text(_) => Value::Text(written(value)),
                        other => other.clone(),
                    };
                    return;
                }
                *text = braces::replace_text(text, |hole| match (value(hole.name), hole.braces) {
                    (Some((_, value)), 1) => Some(written(value)),
                    (Some(_), _) if !later => hole.literal(),
                    _ => None,
                });
            }
            Value::List(items) => {
                for item in items {
                    item.substitute(axes, later);
                }
            }
            Value::Table(table) => {
                for entry in &mut table.0 {
                    entry.node.substitute(axes, later);
                }
            }
            _ => {}
        }
    }

    /// How much memory it takes: values, and bytes of text as fractions of one.
    pub fn weight(&self) -> usize {
        match &self.value {
            Value::Text(text) => 1 + text.len() / 64,
            Value::List(items) => 1 + items.iter().map(Node::weight).sum::<usize>(),
            Value::Table(table) => 1 + table.weight(),
            _ => 1,
        }
    }

    /// How a scalar reads in an instance's name.
    pub fn label(&self) -> String {
        match &self.value {
            Value::Text(text) => text.clone(),
            _ => self.to_json().to_string(),
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Float(f) => {
                Number::from_f64(*f).map_or(serde_json::Value::Null, serde_json::Value::Number)
            }
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(table) => table.to_json(),
        }
    }
}
