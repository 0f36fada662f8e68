//! What a command declares to write.

use crate::base::diag::{Diagnostic, suggest};
use crate::pipeline::graph::Output;
use crate::pipeline::spec::node::Node;
use crate::pipeline::spec::{Instance, Spec};

pub fn read(spec: &Spec, instance: &Instance) -> Result<Vec<Output>, Diagnostic> {
    let table = match instance.command.get("out") {
        Some(node) => node
            .table()
            .ok_or_else(|| spec.error(&node.span, "`out` must be a table: out.NAME = \"FILE\""))?,
        None => {
            let message = format!("stage `{}` declares no output", instance.name);
            let hint = "write out.NAME = \"FILE\", and pass {out.NAME} to the program";
            return Err(spec.error(&instance.span, message).hint(hint));
        }
    };
    let mut outputs: Vec<Output> = Vec::new();
    for entry in &table.0 {
        let field = |key: &str| {
            entry
                .node
                .table()
                .and_then(|t| t.get(key))
                .and_then(Node::text)
        };
        let stray = entry.node.table().and_then(|t| {
            t.0.iter()
                .find(|e| !["file", "holds"].contains(&e.key.as_str()))
        });
        if let Some(stray) = stray {
            let message = format!("output `{}` has no `{}`", entry.key, stray.key);
            let hint = suggest(&stray.key, ["file", "holds"]);
            return Err(spec.error(&stray.key_span, message).hint(hint));
        }
        let Some(file) = entry.node.text().or(field("file")) else {
            let message = format!("output `{}` must be a file name", entry.key);
            return Err(spec
                .error(&entry.node.span, message)
                .hint("out.NAME = \"FILE\""));
        };
        let taken = ["manifest.txt", "record.json", "reads.json", "log", "state"].contains(&file)
            || outputs.iter().any(|o| o.file == file);
        if file.is_empty() || file.contains('/') || file.starts_with('.') || taken {
            let message = format!(
                "output `{}` cannot be kept under the name `{file}`",
                entry.key
            );
            let hint = "a plain name of its own, such as \"model.bin\"; `repro` chooses the folder";
            return Err(spec.error(&entry.node.span, message).hint(hint));
        }
        outputs.push(Output {
            port: entry.key.clone(),
            holds: field("holds").unwrap_or("file").into(),
            file: file.into(),
        });
    }
    Ok(outputs)
}
