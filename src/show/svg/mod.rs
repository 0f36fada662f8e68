//! Drawings as SVG: training curves and the graph of stages. The same facts give the same bytes.

mod curve;
mod graph;
mod layers;

pub use curve::{curve, sheet};
pub use graph::{Node, State, graph};

use maud::{Markup, PreEscaped, html};

/// Colours and type of all drawings, light and dark. A page that shows them inline brings it once.
pub const STYLE: &str = include_str!("drawing.css");

/// A drawing as a file of its own.
pub fn file(drawing: &Drawing) -> String {
    let Drawing {
        width,
        height,
        label,
        body,
    } = drawing;
    let svg = html! {
        svg.drawing xmlns="http://www.w3.org/2000/svg" width=(width) height=(height)
            viewBox=(format!("0 0 {width} {height}")) role="img" {
            title { (label) }
            style { (PreEscaped(STYLE)) }
            rect.ground width=(width) height=(height) {}
            (body)
        }
    };
    svg.into_string() + "\n"
}

/// A drawing inside a page. `role` is `img`, or `group` if parts of it are links: nothing inside an
/// image can be reached by a keyboard or a screen reader.
pub fn inline(drawing: &Drawing, role: &str) -> Markup {
    let Drawing {
        width,
        height,
        label,
        body,
    } = drawing;
    html! {
        svg.drawing viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height)
            role=(role) aria-label=(label) { (body) }
    }
}

pub struct Drawing {
    pub width: u32,
    pub height: u32,
    /// What it shows, for those who do not see it.
    pub label: String,
    pub body: Markup,
}

/// A coordinate: a tenth of a pixel is plenty, and keeps files small.
fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
