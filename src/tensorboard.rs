//! Histories as TensorBoard event files: TFRecord frames around protobuf messages, both small
//! enough to write by hand (the crates that do it bring an image library and a protobuf runtime).

use std::collections::BTreeMap;

use crate::history::Curves;

/// An event file with every curve of one training. `at` are seconds since 1970; all events carry
/// the time at which the result was done, so that the same result gives the same bytes.
pub fn events(curves: &Curves, at: u64) -> Vec<u8> {
    let mut file = Vec::new();
    let mut first = event(at, 0);
    bytes(&mut first, 3, b"brain.Event:2");
    frame(&mut file, &first);
    let mut steps: BTreeMap<i64, Vec<(String, f64)>> = BTreeMap::new();
    for (what, places) in curves {
        for (place, points) in places {
            let tag = if place.is_empty() {
                what.clone()
            } else {
                format!("{what}/{place}")
            };
            for (step, value) in points {
                steps
                    .entry(*step as i64)
                    .or_default()
                    .push((tag.clone(), *value));
            }
        }
    }
    for (step, values) in steps {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut one = Vec::new();
            bytes(&mut one, 1, tag.as_bytes());
            key(&mut one, 2, FIXED32);
            one.extend((value as f32).to_le_bytes());
            bytes(&mut summary, 1, &one);
        }
        let mut event = event(at, step);
        bytes(&mut event, 5, &summary);
        frame(&mut file, &event);
    }
    file
}

/// The name that TensorBoard looks for.
pub fn file_name(at: u64) -> String {
    format!("events.out.tfevents.{at}.repro")
}

/// Wire types of protobuf.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

fn event(at: u64, step: i64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED64);
    event.extend((at as f64).to_le_bytes());
    key(&mut event, 2, VARINT);
    varint(&mut event, step as u64);
    event
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend(value);
}

/// A TFRecord: length, its checksum, data, its checksum.
fn frame(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked(data).to_le_bytes());
}

/// TFRecord rotates the checksum, so that one over data with checksums in it is no accident.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's CRC, bit by bit: histories are small.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn frames_hold_a_version_and_then_a_summary_for_each_step() {
        let points = vec![(1.0, 3.5), (300.0, 2.5)];
        let curves = Curves::from([("loss".into(), BTreeMap::from([("train".into(), points)]))]);
        let file = events(&curves, 1_700_000_000);
        let mut frames = Vec::new();
        let mut rest = &file[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let data = &rest[12..12 + length];
            assert_eq!(rest[8..12], masked(&rest[..8]).to_le_bytes());
            assert_eq!(rest[12 + length..16 + length], masked(data).to_le_bytes());
            frames.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(frames.len(), 3);
        assert!(frames[0].ends_with(b"brain.Event:2"));
        // Step 300 as a varint, then a summary of a value of a tag and a float.
        let mut expected = vec![
            2 << 3,
            0xac,
            0x02,
            5 << 3 | 2,
            19,
            1 << 3 | 2,
            17,
            1 << 3 | 2,
            10,
        ];
        expected.extend(b"loss/train");
        expected.push(2 << 3 | 5);
        expected.extend(2.5f32.to_le_bytes());
        assert_eq!(frames[2][9..], expected[..]);
    }
}
