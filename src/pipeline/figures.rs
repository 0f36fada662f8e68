//! `[figure.*]` of pipeline.toml: which stages draw what, and the graph as a figure of its own.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use toml::Spanned;

use crate::base::diag::{Diagnostic, suggest};
use crate::pipeline::each::{self, Axes, Each};
use crate::pipeline::graph::{Graph, Id};
use crate::pipeline::spec::{Spec, names};

/// The label of outputs that are pictures.
pub const HOLDS: &str = "figure";

/// All declared figures, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Figures(pub Vec<FigureDecl>);

#[derive(Debug, Clone)]
pub struct FigureDecl {
    /// What stands behind `figure.`: `2`, `model`.
    pub id: Spanned<String>,
    pub title: String,
    /// True if the figure is the graph of stages.
    pub graph: bool,
    pub panels: Vec<PanelDecl>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PanelDecl {
    /// What this part shows; may be empty where a figure has one part only.
    #[serde(default)]
    pub caption: String,
    /// Axes for each value of which it stands for a panel; none once figures are loaded.
    #[serde(default)]
    pub each: Each,
    /// The instance that draws it.
    pub stage: Spanned<String>,
    /// Which of its pictures, where it has several.
    pub output: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    title: String,
    #[serde(default)]
    graph: bool,
    #[serde(default)]
    panel: Vec<PanelDecl>,
}

impl<'de> Deserialize<'de> for Figures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InFileOrder;
        impl<'de> Visitor<'de> for InFileOrder {
            type Value = Figures;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("figures by number or name, as in [figure.2]")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Figures, M::Error> {
                let mut figures = Vec::new();
                while let Some((id, body)) = map.next_entry::<Spanned<String>, Body>()? {
                    let Body {
                        title,
                        graph,
                        panel: panels,
                    } = body;
                    figures.push(FigureDecl {
                        id,
                        title,
                        graph,
                        panels,
                    });
                }
                figures.sort_by_key(|f| f.id.span().start);
                Ok(Figures(figures))
            }
        }
        deserializer.deserialize_map(InFileOrder)
    }
}

impl Figures {
    /// The figures of a pipeline, or the first thing wrong with them.
    pub fn load(spec: &Spec, graph: &Graph) -> Result<Self, Diagnostic> {
        let (source, figure) = (&spec.source, spec.figures.expanded(spec)?);
        for figure in &figure.0 {
            let name = figure.id.get_ref();
            if let Some(why) = names::problem(name, &['/', '\\']) {
                let message = format!("a figure cannot be called so: {why}");
                return Err(source.error(&figure.id.span(), message));
            }
            if figure.graph != figure.panels.is_empty() {
                let hint = "a figure has either `graph = true` or [[figure.N.panel]]s with a stage";
                let message = format!("figure {name} shows nothing, or two things");
                return Err(source.error(&figure.id.span(), message).hint(hint));
            }
            for panel in &figure.panels {
                panel.find(graph).map_err(|(span, message, hint)| {
                    source
                        .error(&span, format!("figure {name}: {message}"))
                        .hint(hint)
                })?;
            }
        }
        Ok(figure)
    }
}

impl Figures {
    /// With a panel for each value in the place of every panel that has `each`.
    fn expanded(&self, spec: &Spec) -> Result<Self, Diagnostic> {
        let mut figures = self.clone();
        let mut all = figures.0.iter().flat_map(|figure| &figure.panels);
        if all.all(|panel| panel.each.0.is_empty()) {
            return Ok(figures);
        }
        let axes = Axes::of(spec);
        for figure in &mut figures.0 {
            let place = format!("figure {}", figure.id.get_ref());
            for panel in std::mem::take(&mut figure.panels) {
                match panel.each.0.is_empty() {
                    true => figure.panels.push(panel),
                    false => figure.panels.extend(panel.expanded(&place, &axes, spec)?),
                }
            }
        }
        Ok(figures)
    }
}

impl PanelDecl {
    /// A panel for each value of the axes that `each` names.
    fn expanded(&self, place: &str, axes: &Axes, spec: &Spec) -> Result<Vec<Self>, Diagnostic> {
        let span = self.stage.span();
        let choices = axes.choices(place, &self.each, &[&self.stage])?;
        let mut panels = Vec::with_capacity(choices.len());
        for choice in &choices {
            // The values are those of its own stage.
            let Some(stage) = axes.stage(&self.stage, choice)? else {
                continue;
            };
            if stage.contains('*') && !self.stage.get_ref().contains('@') {
                let message = format!(
                    "{place}: {} has more axes than this `each`",
                    self.stage.get_ref()
                );
                let hint =
                    format!("a panel shows one picture: name all axes, or say which: {stage}");
                return Err(spec.error(&span, message).hint(hint));
            }
            let caption = match self.caption.as_str() {
                "" => each::values(choice),
                text => axes.text(text, choice, &span)?,
            };
            let panel = Self {
                caption,
                each: Each::default(),
                stage: Spanned::new(span.clone(), stage),
                output: self.output.clone(),
            };
            panels.push((panel, choice));
        }
        let named = panels
            .iter()
            .map(|(panel, choice)| (&panel.caption, *choice));
        if let Some((one, other)) = each::alike(named) {
            let (one, other) = (each::described(one), each::described(other));
            let message =
                format!("{place}: a panel has the same caption for {one} and for {other}");
            let hint = "put the axes into the caption, as in \"lr {lr}\", or leave the caption out";
            return Err(spec.error(&span, message).hint(hint));
        }
        Ok(panels.into_iter().map(|(panel, _)| panel).collect())
    }

    /// The instance and the number of its output.
    pub fn find(
        &self,
        graph: &Graph,
    ) -> Result<(Id, usize), (std::ops::Range<usize>, String, String)> {
        let name = self.stage.get_ref();
        let Some(id) = graph.find(name) else {
            let names = graph.stages.iter().map(|s| s.name.as_str());
            let message = format!("there is no stage {name}");
            return Err((self.stage.span(), message, suggest(name, names)));
        };
        let outputs = &graph.stages[id].outputs;
        let pictures: Vec<usize> = (0..outputs.len())
            .filter(|o| outputs[*o].holds == HOLDS)
            .collect();
        let ports = || pictures.iter().map(|o| outputs[*o].port.as_str());
        match (&self.output, &pictures[..]) {
            (None, [one]) => Ok((id, *one)),
            (_, []) => Err((
                self.stage.span(),
                format!("stage {name} draws nothing"),
                "name a stage with an output that holds `figure`".into(),
            )),
            (None, _) => Err((
                self.stage.span(),
                format!("stage {name} has several pictures"),
                format!(
                    "say which: output = one of {}",
                    ports().collect::<Vec<_>>().join(", ")
                ),
            )),
            (Some(output), _) => {
                let wanted = output.get_ref();
                let found = pictures.iter().find(|o| outputs[**o].port == *wanted);
                found.map(|o| (id, *o)).ok_or_else(|| {
                    let message = format!("stage {name} has no picture {wanted}");
                    (output.span(), message, suggest(wanted, ports()))
                })
            }
        }
    }
}
