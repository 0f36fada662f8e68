//! A quantity over epochs, seen on training and held-out data.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{Drawing, at};

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 196.0;
/// Room for numbers left and below, for names above.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 26.0;
/// Points stay visible as such up to this many.
const DOTS: usize = 30;

/// One chart. `places` are the curves by where they were seen: `train`, `valid`.
pub fn curve(of: &str, what: &str, places: &BTreeMap<String, Vec<(f64, f64)>>) -> Drawing {
    let body = html! { (chart(what, places)) };
    Drawing {
        width: WIDTH as u32,
        height: HEIGHT as u32,
        label: label(of, what, places),
        body,
    }
}

/// All charts of one stage on one sheet, two a row.
pub fn sheet(of: &str, curves: &crate::show::history::Curves) -> Drawing {
    let head = 30.0;
    let rows = curves.len().div_ceil(2);
    let body = html! {
        text.name x="14" y="20" { (of) }
        @for (i, (what, places)) in curves.iter().enumerate() {
            @let (x, y) = ((i % 2) as f64 * WIDTH, head + (i / 2) as f64 * HEIGHT);
            g transform=(format!("translate({} {})", at(x), at(y))) { (chart(what, places)) }
        }
    };
    let each: Vec<String> = curves.iter().map(|(what, p)| label(of, what, p)).collect();
    let (width, height) = (2.0 * WIDTH, head + rows as f64 * HEIGHT);
    Drawing {
        width: width as u32,
        height: height as u32,
        label: each.join(" "),
        body,
    }
}

/// What a chart says in words.
fn label(of: &str, what: &str, places: &BTreeMap<String, Vec<(f64, f64)>>) -> String {
    let mut parts = Vec::new();
    for (place, points) in places {
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            let place = if place.is_empty() {
                String::new()
            } else {
                format!(" ({place})")
            };
            parts.push(format!(
                "{what}{place} from {} at {} to {} at {}",
                short(first.1),
                first.0,
                short(last.1),
                last.0
            ));
        }
    }
    format!("{of}: {}.", parts.join(", "))
}

fn chart(what: &str, places: &BTreeMap<String, Vec<(f64, f64)>>) -> Markup {
    let all: Vec<(f64, f64)> = (places.values().flatten().copied())
        .filter(|(_, y)| y.is_finite())
        .collect();
    let (x0, x1) = range(all.iter().map(|p| p.0));
    let (y0, y1) = range(all.iter().map(|p| p.1));
    let log = y0 > 0.0 && y1 / y0 > 30.0;
    let (y0, y1) = if log {
        (y0, y1)
    } else {
        without_start(&all, (y0, y1), x0)
    };
    let beyond = all.iter().filter(|(_, y)| !(y0..=y1).contains(y));
    let beyond: Vec<String> = beyond
        .map(|(x, y)| format!("{} at {}", short(*y), short(*x)))
        .collect();
    let (low, high) = (y0, y1);
    let ticks_y = if log {
        decades(y0, y1)
    } else {
        ticks(y0, y1, 4)
    };
    let (y0, y1) = (y0.min(ticks_y[0]), y1.max(ticks_y[ticks_y.len() - 1]));
    let scale = |v: f64| if log { v.log10() } else { v };
    let px =
        |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * if x1 > x0 { (x - x0) / (x1 - x0) } else { 0.5 };
    let py = |y: f64| {
        let part = (scale(y) - scale(y0)) / (scale(y1) - scale(y0)).max(f64::MIN_POSITIVE);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part
    };
    let whole = |x: &f64| x.fract() == 0.0 && (x0..=x1).contains(x);
    let ticks_x: Vec<f64> = ticks(x0, x1, 5).into_iter().filter(whole).collect();
    html! {
        text.name x=(at(LEFT)) y="14" { (what) @if log { " (log)" } }
        @if !beyond.is_empty() {
            text x=(at(LEFT)) y=(at(TOP - 7.0)) { "not drawn: " (beyond.join(", ")) }
        }
        @for (i, place) in places.keys().filter(|p| !p.is_empty()).enumerate() {
            text.(place) x=(at(WIDTH - RIGHT - 45.0 * i as f64)) y="14" text-anchor="end" { (place) }
        }
        @for y in &ticks_y {
            line.grid x1=(at(LEFT)) x2=(at(WIDTH - RIGHT)) y1=(at(py(*y))) y2=(at(py(*y))) {}
            text x=(at(LEFT - 6.0)) y=(at(py(*y) + 4.0)) text-anchor="end" { (short(*y)) }
        }
        @for x in &ticks_x {
            text x=(at(px(*x))) y=(at(HEIGHT - 8.0)) text-anchor="middle" { (short(*x)) }
        }
        @for (place, points) in places {
            @let points: Vec<&(f64, f64)> = points.iter().filter(|(_, y)| (low..=high).contains(y)).collect();
            @let path: Vec<String> =
                points.iter().map(|(x, y)| format!("{} {}", at(px(*x)), at(py(*y)))).collect();
            @if path.len() > 1 { path.line.(place) d=(format!("M{}", path.join("L"))) {} }
            @if points.len() <= DOTS {
                @for (x, y) in points { circle.dot.(place) cx=(at(px(*x))) cy=(at(py(*y))) r="2.5" {} }
            }
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high { (0.0, 1.0) } else { (low, high) }
}

/// The range of all but the first place, where that alone would flatten the rest: what a network says
/// before it has learned anything.
fn without_start(all: &[(f64, f64)], (low, high): (f64, f64), first: f64) -> (f64, f64) {
    let rest: Vec<f64> = (all.iter().filter(|(x, _)| *x > first))
        .map(|(_, y)| *y)
        .collect();
    let (rest_low, rest_high) = range(rest.iter().copied());
    let flattened = high - low > 4.0 * (rest_high - rest_low);
    if rest.len() >= 3 && rest_high > rest_low && flattened {
        (rest_low, rest_high)
    } else {
        (low, high)
    }
}

/// About `n` round numbers that cover the range.
fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let span = if high > low {
        high - low
    } else {
        low.abs().max(1.0)
    };
    let raw = span / n as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * power)
        .into_iter()
        .find(|s| *s >= raw);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).floor() as i64;
    let last = (high / step).ceil() as i64;
    // Numbers at the edge of what a float can hold have no round ones near them.
    if !step.is_normal() || last.saturating_sub(first) > 100 || first.abs() > 1 << 53 {
        return vec![low, high];
    }
    (first..=last.max(first + 1))
        .map(|i| i as f64 * step)
        .collect()
}

fn decades(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let every = ((last - first) / 5).max(1);
    (first..=last)
        .filter(|i| (i - first) % every == 0 || *i == last)
        .map(|i| 10f64.powi(i))
        .collect()
}

/// `1e-4`, `0.25`, `1,500`: four significant digits at most.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        let text = format!("{value:.1e}").replace(".0e", "e");
        return text.replace('-', "−");
    }
    let digits = if size == 0.0 {
        0
    } else {
        (3 - size.log10().floor() as i32).clamp(0, 6) as usize
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(1.0, 8.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(3.0, 3.0, 4), [3.0, 4.0]);
        for (low, high) in [
            (0.0, 5e-324),
            (-1e308, 1e308),
            (1e300, 1.0000000000000002e300),
        ] {
            assert_eq!(ticks(low, high, 4), [low, high]);
        }
        assert_eq!(decades(2e-4, 0.5), [1e-4, 1e-3, 1e-2, 1e-1, 1.0]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.25, 1500.0, 3.14321, 1e-4, -2.0, 0.0].map(short),
            ["0.25", "1500", "3.143", "1e−4", "−2", "0"]
        );
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows_and_draws_inside_its_frame() {
        let places = BTreeMap::from([
            (
                "train".to_owned(),
                vec![(1.0, 5.0), (2.0, 3.0), (3.0, f64::NAN)],
            ),
            ("valid".to_owned(), vec![(1.0, 6.0), (2.0, 4.0)]),
        ]);
        let drawing = curve("vae", "loss", &places);
        assert!(
            drawing
                .label
                .starts_with("vae: loss (train) from 5 at 1 to"),
            "{}",
            drawing.label
        );
        let text = drawing.body.into_string();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert_eq!(text.matches("<path").count(), 2);
        for part in text.split("cy=\"").skip(1) {
            let y: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y), "{y}");
        }
    }

    #[test]
    fn a_start_that_would_flatten_the_rest_is_told_and_not_drawn() {
        let curve_of = |first: f64| {
            let points = [(1.0, first), (2.0, 5.5), (3.0, 5.3), (4.0, 5.2)];
            let valid = BTreeMap::from([("valid".to_owned(), points.to_vec())]);
            curve("vae", "bits/dim", &valid)
        };
        let steep = curve_of(77.3);
        assert!(steep.label.contains("from 77.3 at 1"), "{}", steep.label);
        let text = steep.body.into_string();
        assert!(text.contains("not drawn: 77.3 at 1"), "{text}");
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(text.contains(">5.2<") && !text.contains(">60<"), "{text}");
        let text = curve_of(6.0).body.into_string();
        assert!(!text.contains("not drawn"), "{text}");
        assert_eq!(text.matches("<circle").count(), 4);
    }

    #[test]
    fn a_single_point_is_a_dot() {
        let places = BTreeMap::from([(String::new(), vec![(1.0, 0.0)])]);
        let text = curve("vae", "lr", &places).body.into_string();
        assert!(text.contains("<circle") && !text.contains("NaN"), "{text}");
    }
}
