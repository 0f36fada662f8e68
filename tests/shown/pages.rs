//! Figures and the report.

use crate::{metrics, ran, space};

#[test]
fn figures_are_pictures_the_graph_and_curves() {
    let space = space();
    space
        .repro("figures 2")
        .ends(2)
        .complains("figure 2, draw: not run");
    space.repro("run").ends(0);
    space
        .repro("figures")
        .ends(0)
        .complains("wrote figures/figure-2.svg");
    let graph = space.read("figures/figure-1.svg");
    assert!(graph.contains("score (command): 2 fresh"), "{graph}");
    let curves = space.read("figures/curves-train-good.svg");
    assert!(
        curves.contains("loss (train) from 2 at 1 to 1 at 2"),
        "{curves}"
    );
    space
        .repro("tensorboard --out events")
        .ends(0)
        .complains("wrote events/train@good/events.out.tfevents.");
}

#[test]
fn the_report_is_one_file_that_needs_nothing_else() {
    let space = ran();
    space.write("fair.json", &metrics(3.8));
    space.repro("report").ends(0).complains("wrote report.html");
    let page = space.read("report.html");
    for part in [
        "A toy paper",
        "popovertarget=\"from-1-0-0-reproduced\"",
        "id=\"from-1-0-0-reproduced\"",
        "3.14",
        "id=\"stage-score@good\"",
        "waits for train@fair",
        "Before you read the numbers",
        "2 stages stale",
        "data:image/svg+xml;base64,",
        "loss (train) from 2 at 1",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    for outside in ["src=\"http", "href=\"http", "url(", "@import"] {
        assert!(!page.contains(outside), "the page needs {outside}");
    }
    // Every link inside the page leads somewhere.
    let ids: Vec<&str> = page
        .split(" id=\"")
        .skip(1)
        .filter_map(|p| p.split('"').next())
        .collect();
    for target in page
        .split("href=\"#")
        .skip(1)
        .filter_map(|p| p.split('"').next())
    {
        assert!(ids.contains(&target), "nothing is called {target}");
    }
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "an id stands twice");
}
