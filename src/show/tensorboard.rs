//! Histories as TensorBoard event files.
//!
//! A file is a series of records, each an `Event` of TensorFlow's event.proto in protobuf's wire
//! format. Of that format the few fields of a curve are written here, rather than by a library that
//! knows all of it.

use std::collections::BTreeMap;

use crc::{CRC_32_ISCSI, Crc, Table};

use crate::show::history::Curves;

/// An event file with every curve of one training. `at` are seconds since 1970; all events carry
/// the time at which the result was done, so that the same result gives the same bytes.
pub fn events(curves: &Curves, at: u64) -> Vec<u8> {
    let mut steps: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
    for (what, places) in curves {
        for (place, points) in places {
            let tag = match place.as_str() {
                "" => what.clone(),
                _ => format!("{what}/{place}"),
            };
            for (step, value) in points {
                let mut scalar = Vec::new();
                bytes(&mut scalar, 1, tag.as_bytes());
                float(&mut scalar, 2, *value as f32);
                bytes(steps.entry(*step as i64).or_default(), 1, &scalar);
            }
        }
    }
    let mut file = Vec::new();
    let mut version = event(at, 0);
    bytes(&mut version, 3, b"brain.Event:2");
    record(&mut file, &version);
    for (step, summary) in steps {
        let mut scalars = event(at, step);
        bytes(&mut scalars, 5, &summary);
        record(&mut file, &scalars);
    }
    file
}

/// The name that TensorBoard looks for.
pub fn file_name(at: u64) -> String {
    format!("events.out.tfevents.{at}.repro")
}

/// The beginning of an event: its time, and its step unless that is 0.
fn event(at: u64, step: i64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, at as f64);
    if step != 0 {
        key(&mut event, 2, VARINT);
        varint(&mut event, step as u64);
    }
    event
}

// The types of fields in protobuf's wire format.
const VARINT: u64 = 0;
const DOUBLE: u64 = 1;
const BYTES: u64 = 2;
const FLOAT: u64 = 5;

fn key(message: &mut Vec<u8>, field: u64, wire: u64) {
    varint(message, field << 3 | wire);
}

/// Seven bits a byte, the lowest first; the eighth bit says that more follow.
fn varint(message: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        message.push(n as u8 | 0x80);
        n >>= 7;
    }
    message.push(n as u8);
}

fn double(message: &mut Vec<u8>, field: u64, value: f64) {
    key(message, field, DOUBLE);
    message.extend(value.to_le_bytes());
}

fn float(message: &mut Vec<u8>, field: u64, value: f32) {
    key(message, field, FLOAT);
    message.extend(value.to_le_bytes());
}

/// A text, or a message inside a message.
fn bytes(message: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(message, field, BYTES);
    varint(message, value.len() as u64);
    message.extend(value);
}

/// One record: the length, a checksum of it, the data, a checksum of them.
fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(checksum(&length));
    file.extend(data);
    file.extend(checksum(data));
}

/// CRC-32C. Files that hold checksums of checksums make poor ones, so TensorFlow masks it.
fn checksum(data: &[u8]) -> [u8; 4] {
    const CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);
    let masked = CRC
        .checksum(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8);
    masked.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What TensorBoard's own writer makes of the same events:
    ///
    /// ```python
    /// import sys
    /// from tensorboard.compat.proto.event_pb2 import Event
    /// from tensorboard.compat.proto.summary_pb2 import Summary
    /// from tensorboard.summary.writer.record_writer import RecordWriter
    /// file = RecordWriter(sys.stdout.buffer)
    /// def write(**fields): file.write(Event(wall_time=1.7e9, **fields).SerializeToString())
    /// def scalars(*all): return Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in all])
    /// write(file_version="brain.Event:2")
    /// write(step=1, summary=scalars(("loss/train", 3.5)))
    /// write(step=300, summary=scalars(("loss/train", 2.5), ("lr", 0.0)))
    /// ```
    const EXPECTED: &[u8] =
        b"\x18\0\0\0\0\0\0\0\xa3\x7fK\x22\x09\0\0\0@\xfcT\xd9A\x1a\x0dbrain.Event:2\xec\xed\x8f\x9d\
          \x20\0\0\0\0\0\0\0)\xed\xa9P\x09\0\0\0@\xfcT\xd9A\x10\x01*\x13\x0a\x11\x0a\x0aloss/train\
          \x15\0\0`@9\xd8[},\0\0\0\0\0\0\0\xf4\xae\xccE\x09\0\0\0@\xfcT\xd9A\x10\xac\x02*\x1e\x0a\
          \x11\x0a\x0aloss/train\x15\0\0\x20@\x0a\x09\x0a\x02lr\x15\0\0\0\0o\xb7l9";

    #[test]
    fn the_bytes_are_those_of_tensorboards_own_writer() {
        let curve = |place: &str, points: &[(f64, f64)]| {
            BTreeMap::from([(place.to_owned(), points.to_vec())])
        };
        let curves = Curves::from([
            ("loss".into(), curve("train", &[(1.0, 3.5), (300.0, 2.5)])),
            ("lr".into(), curve("", &[(300.0, 0.0)])),
        ]);
        let file = events(&curves, 1_700_000_000);
        assert_eq!(
            file.escape_ascii().to_string(),
            EXPECTED.escape_ascii().to_string()
        );
    }
}
