//! Histories as TensorBoard event files.

use std::collections::BTreeMap;

use anyhow::Result;
use tfrecord::protobuf::{Event, Summary, event::What};
use tfrecord::{EventMeta, RecordWriter};

use crate::history::Curves;

/// An event file with every curve of one training. `at` are seconds since 1970; all events carry
/// the time at which the result was done, so that the same result gives the same bytes.
pub fn events(curves: &Curves, at: u64) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut writer = RecordWriter::from_writer(&mut file)?;
    let at_step = |step| EventMeta::new(step, at as f64);
    let version = What::FileVersion("brain.Event:2".into());
    writer.send(Event {
        what: Some(version),
        ..at_step(0).build_empty()
    })?;
    let mut steps: BTreeMap<i64, Summary> = BTreeMap::new();
    for (what, places) in curves {
        for (place, points) in places {
            let tag = match place.as_str() {
                "" => what.clone(),
                _ => format!("{what}/{place}"),
            };
            for (step, value) in points {
                let scalar = Summary::from_scalar(&tag, *value as f32)?;
                let summary = steps.entry(*step as i64).or_default();
                summary.value.extend(scalar.value);
            }
        }
    }
    for (step, summary) in steps {
        writer.send(at_step(step).build_with_summary(summary))?;
    }
    Ok(file)
}

/// The name that TensorBoard looks for.
pub fn file_name(at: u64) -> String {
    format!("events.out.tfevents.{at}.repro")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tfrecord::EventIter;
    use tfrecord::protobuf::summary::value::Value;

    #[test]
    fn a_version_and_then_a_summary_for_each_step() {
        let curve = |points: &[(f64, f64)]| BTreeMap::from([("train".into(), points.to_vec())]);
        let curves = Curves::from([
            ("loss".into(), curve(&[(1.0, 3.5), (300.0, 2.5)])),
            ("lr".into(), curve(&[(300.0, 0.5)])),
        ]);
        let file = events(&curves, 1_700_000_000).unwrap();
        assert_eq!(file, events(&curves, 1_700_000_000).unwrap());
        let reader = EventIter::from_reader(&file[..], Default::default());
        let read: Vec<Event> = reader.map(Result::unwrap).collect();
        assert!(read.iter().all(|event| event.wall_time == 1.7e9));
        let version = What::FileVersion("brain.Event:2".into());
        assert_eq!(read[0].what, Some(version));
        let mut scalars = Vec::new();
        for event in &read[1..] {
            let Some(What::Summary(summary)) = &event.what else {
                panic!("{event:?}");
            };
            for one in &summary.value {
                scalars.push((event.step, one.tag.as_str(), one.value.clone().unwrap()));
            }
        }
        let value = Value::SimpleValue;
        let expected = [
            (1, "loss/train", value(3.5)),
            (300, "loss/train", value(2.5)),
            (300, "lr/train", value(0.5)),
        ];
        assert_eq!(scalars, expected);
    }
}
