//! The graph of stages: a box for each, a mark in it for each instance, by verdict.

use maud::{Markup, html};

use super::{Drawing, at, layers};

/// A stage, all instances together.
pub struct Node {
    pub name: String,
    pub kind: String,
    /// The state of each instance, in the order of the file.
    pub states: Vec<State>,
    /// Where a click leads, in a page that has such a place.
    pub link: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Fresh,
    Stale,
    Absent,
}

impl State {
    /// As classes and words say it.
    pub fn word(self) -> &'static str {
        match self {
            State::Fresh => "fresh",
            State::Stale => "stale",
            State::Absent => "absent",
        }
    }
}

const BOX: (f64, f64) = (128.0, 58.0);
const GAP: (f64, f64) = (52.0, 16.0);
const MARGIN: f64 = 14.0;
/// More marks than this are counted instead.
const MARKS: usize = 12;

/// Draws the graph; an edge leads from a stage to one that reads it.
pub fn graph(title: &str, nodes: &[Node], edges: &[(usize, usize)]) -> Drawing {
    let placed = layers::place(nodes.len(), edges);
    let left = |column: usize| MARGIN + column as f64 * (BOX.0 + GAP.0);
    let middle = |row: f64| MARGIN + BOX.1 / 2.0 + row * (BOX.1 + GAP.1);
    let body = html! {
        @for points in &placed.edges {
            path.edge d=(edge(points, &left, &middle)) {}
        }
        @for (node, (column, row)) in nodes.iter().zip(&placed.nodes) {
            (boxed(node, left(*column), middle(*row) - BOX.1 / 2.0))
        }
    };
    let width = 2.0 * MARGIN + placed.columns as f64 * (BOX.0 + GAP.0) - GAP.0;
    let height = 2.0 * MARGIN + placed.rows * (BOX.1 + GAP.1) - GAP.1;
    Drawing {
        width: width.max(1.0).ceil() as u32,
        height: height.max(1.0).ceil() as u32,
        label: format!("{title}: {} stages and what each reads.", nodes.len()),
        body,
    }
}

/// From the right side of a box, level through each column it passes, to the left of another.
fn edge(
    points: &[(usize, f64)],
    left: &dyn Fn(usize) -> f64,
    middle: &dyn Fn(f64) -> f64,
) -> String {
    let mut path = String::new();
    for (i, pair) in points.windows(2).enumerate() {
        let (from, to) = (pair[0], pair[1]);
        let (x0, x1) = (left(from.0) + BOX.0, left(to.0));
        let (y0, y1) = (middle(from.1), middle(to.1));
        if i == 0 {
            path += &format!("M{} {}", at(x0), at(y0));
        } else {
            path += &format!("H{}", at(x0));
        }
        let bend = (x1 - x0) / 2.0;
        path += &format!(
            "C{} {} {} {} {} {}",
            at(x0 + bend),
            at(y0),
            at(x1 - bend),
            at(y1),
            at(x1),
            at(y1)
        );
    }
    path
}

fn boxed(node: &Node, x: f64, y: f64) -> Markup {
    let worst = |state: State| node.states.contains(&state);
    let class = match () {
        _ if worst(State::Stale) => "stale",
        _ if worst(State::Absent) => "absent",
        _ => "fresh",
    };
    let count = |state: State| node.states.iter().filter(|s| **s == state).count();
    let said: Vec<String> = [State::Fresh, State::Stale, State::Absent]
        .into_iter()
        .filter(|s| worst(*s))
        .map(|s| {
            format!(
                "{} {}",
                count(s),
                if s == State::Absent {
                    "not run"
                } else {
                    s.word()
                }
            )
        })
        .collect();
    let drawn = html! {
        g class=(format!("node {class}")) {
            title { (node.name) " (" (node.kind) "): " (said.join(", ")) }
            rect x=(at(x)) y=(at(y)) width=(at(BOX.0)) height=(at(BOX.1)) rx="7" {}
            text.name x=(at(x + 10.0)) y=(at(y + 19.0)) { (clip(&node.name, 16)) }
            @if node.kind != node.name {
                text x=(at(x + 10.0)) y=(at(y + 34.0)) { (clip(&node.kind, 17)) }
            }
            @if node.states.len() <= MARKS {
                @for (i, state) in node.states.iter().enumerate() {
                    circle class=(format!("mark {}", state.word()))
                        cx=(at(x + 14.0 + 9.0 * i as f64)) cy=(at(y + 47.0)) r="3" {}
                }
            } @else {
                text x=(at(x + 10.0)) y=(at(y + 51.0)) { (count(State::Fresh)) "/" (node.states.len()) }
            }
        }
    };
    match &node.link {
        Some(link) => html! { a href=(link) { (drawn) } },
        None => drawn,
    }
}

fn clip(text: &str, letters: usize) -> String {
    match text.chars().count() > letters {
        true => text.chars().take(letters - 1).chain(['…']).collect(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_shows_its_worst_instance_and_says_all() {
        let node = |name: &str, states: Vec<State>| Node {
            name: name.into(),
            kind: "vae".into(),
            states,
            link: Some(format!("#{name}")),
        };
        let nodes = [
            node("data", vec![State::Fresh, State::Fresh]),
            node("a<b", vec![State::Fresh, State::Stale, State::Absent]),
        ];
        let drawing = graph("paper", &nodes, &[(0, 1)]);
        let text = drawing.body.into_string();
        assert!(text.contains("data (vae): 2 fresh"), "{text}");
        assert!(
            text.contains("a&lt;b (vae): 1 fresh, 1 stale, 1 not run"),
            "{text}"
        );
        assert!(text.contains("class=\"node stale\""), "{text}");
        assert_eq!(text.matches("class=\"edge\"").count(), 1);
        assert!(drawing.width > 300 && drawing.height < 100);
    }
}
