//! `repro tables`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use contract::StageDef;

use super::{Ended, print};
use crate::base::diag::{Diagnostic, suggest};
use crate::base::say::say;
use crate::pipeline::tables::TableDecl;
use crate::plan::project::{PipelineArgs, Project};
use crate::show::evidence;
use crate::show::table::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers or names of tables; by default all
    #[arg(value_name = "N")]
    tables: Vec<String>,
    /// How to write them; several, separated by commas, with --out
    #[arg(long, value_enum, value_delimiter = ',', default_value = "md")]
    format: Vec<Format>,
    /// Write a file for each table into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the JSON Schema of `--format json` instead
    #[arg(long)]
    schema: bool,
}

pub fn run(pipeline: &PipelineArgs, args: &Args, kinds: &'static [StageDef]) -> Result<Ended> {
    if args.schema {
        let schema = schemars::schema_for!(Vec<Table>);
        print(&(serde_json::to_string_pretty(&schema)? + "\n"))?;
        return Ok(Ended::Done);
    }
    let mut project = Project::open(pipeline, kinds)?;
    let evidence = evidence::collect(&mut project, true);
    let mut tables = Vec::new();
    let mut refused = Vec::new();
    for decl in choose(&project.tables.0, &args.tables)? {
        match table::build(decl, &evidence) {
            Ok(table) => tables.push(table),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    match &args.out {
        Some(dir) => write(dir, &tables, &args.format)?,
        None if args.format.len() > 1 => {
            let hint = "name a folder with --out, or one format";
            let message = "several formats do not fit on standard output";
            return Err(Diagnostic::new(message).hint(hint).into());
        }
        None => {
            let texts = args
                .format
                .iter()
                .map(|f| table::render(&project.spec.title, &tables, *f));
            print(&texts.collect::<Result<String>>()?)?;
        }
    }
    if !refused.is_empty() {
        return Err(Diagnostic::new(refused.join("\n")).into());
    }
    project.hint_at_other_profiles();
    Ok(Ended::Done)
}

/// What a run of everything was for: all tables, for a person.
pub fn after_run(pipeline: &PipelineArgs, kinds: &'static [StageDef]) -> Result<()> {
    let args = Args {
        tables: Vec::new(),
        format: vec![Format::Md],
        out: None,
        schema: false,
    };
    run(pipeline, &args, kinds).map(drop)
}

/// The declarations asked for, in the order of the file.
fn choose<'a>(declared: &'a [TableDecl], names: &[String]) -> Result<Vec<&'a TableDecl>> {
    if declared.is_empty() {
        let hint = "declare one: [table.1] with `title`, `columns` and [[table.1.row]]";
        return Err(Diagnostic::new("the pipeline declares no tables")
            .hint(hint)
            .into());
    }
    let ids = || declared.iter().map(|t| t.id.get_ref().as_str());
    for name in names {
        if !ids().any(|id| id == name) {
            let message = format!("there is no table `{name}`");
            return Err(Diagnostic::new(message).hint(suggest(name, ids())).into());
        }
    }
    let wanted = |t: &&TableDecl| names.is_empty() || names.contains(t.id.get_ref());
    Ok(declared.iter().filter(wanted).collect())
}

fn write(dir: &Path, tables: &[Table], formats: &[Format]) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for table in tables {
        for format in formats {
            let file = dir.join(format!("table-{}.{}", table.id, format.extension()));
            let text = table::render(&table.title, std::slice::from_ref(table), *format)?;
            super::write(&file, text.as_bytes())?;
            say!("wrote {}", file.display());
        }
    }
    Ok(())
}
