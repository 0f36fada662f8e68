use super::*;
use candle_core::DType;
use std::io::Write;

/// Written by `tests/golden/pickle_state.py`: a state dict of `a.weight` [[0, 1, 2], [3, 4, 5]],
/// `a.half` [0.5], `a.num_batches_tracked` 7 and `b.part`, the last two of a storage of four.
const STATE: &[u8] = include_bytes!("../../../tests/golden/state.pth");
/// The same and more in the old layout.
const OLD: &[u8] = include_bytes!("../../../tests/golden/old.pth");
/// That in a checkpoint, with instructions of protocol 4, and in the new layout.
const OLD_4: &[u8] = include_bytes!("../../../tests/golden/old_protocol_4.pth");
const CHECKPOINT: &[u8] = include_bytes!("../../../tests/golden/checkpoint.pth");
const PYTHON_2: &[u8] = include_bytes!("../../../tests/golden/old_python_2.pth");

fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn zip_of(members: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = zip::ZipWriter::new(file.as_file_mut());
    for (name, bytes) in members {
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    file
}

fn all(_: &str) -> bool {
    true
}

fn of(bytes: &[u8]) -> Result<State> {
    read(file_of(bytes).path(), &all)
}

fn error(bytes: &[u8]) -> String {
    format!("{:#}", of(bytes).unwrap_err())
}

/// The old layout around a pickle of an object.
fn old(object: &[u8], keys: &[u8], storages: &[u8]) -> Vec<u8> {
    let at = OLD.iter().position(|&b| b == b'.').unwrap() + 1;
    let head = [&OLD[..at], b"\x80\x02M\xe9\x03.\x80\x02}."];
    [&head.concat(), object, keys, storages].concat()
}

fn floats(state: &State, name: &str) -> Vec<f32> {
    let flat = state.tensors[name].flatten_all().unwrap();
    flat.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

#[test]
fn it_reads_what_pytorch_wrote() -> Result<()> {
    let state = of(STATE)?;
    let names: Vec<&str> = state.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["a.half", "a.weight", "b.part"]);
    assert_eq!(state.tensors["a.weight"].dims(), [2, 3]);
    assert_eq!(floats(&state, "a.weight"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(floats(&state, "a.half"), [0.5]);
    assert_eq!(floats(&state, "b.part"), [2.0, 3.0]);
    let text = error(&STATE[..STATE.len() - 30]);
    assert!(text.contains("it is not a whole .pth file"), "{text}");
    Ok(())
}

#[test]
fn either_layout_with_every_type_view_and_stride() -> Result<()> {
    for (bytes, place) in [(OLD, ""), (OLD_4, "model"), (CHECKPOINT, "model")] {
        let state = of(bytes)?;
        assert_eq!(state.place, place);
        let names: Vec<&str> = state.tensors.keys().map(String::as_str).collect();
        let floating = [
            "a.half",
            "a.weight",
            "b.every_second",
            "b.part",
            "b.repeated",
            "b.turned",
            "b.whole",
            "c.bfloat16",
            "c.float64",
            "d.channels_last",
            "d.empty",
            "d.parameter",
            "d.scalar",
        ];
        assert_eq!(names, floating);
        assert_eq!(floats(&state, "a.weight"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(floats(&state, "b.part"), [2.0, 3.0]);
        assert_eq!(floats(&state, "b.whole"), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(floats(&state, "b.turned"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(floats(&state, "b.every_second"), [1.0, 3.0, 5.0, 7.0]);
        assert_eq!(floats(&state, "b.repeated"), [2.5; 4]);
        assert_eq!(floats(&state, "c.bfloat16"), [1.0, 0.0]);
        assert_eq!(floats(&state, "c.float64"), [1.0, 0.0]);
        let pictures: Vec<f32> = (0..12u8).map(f32::from).collect();
        assert_eq!(floats(&state, "d.channels_last"), pictures);
        assert_eq!(state.tensors["d.channels_last"].dims(), [1, 3, 2, 2]);
        assert_eq!(floats(&state, "d.parameter"), [9.0]);
        assert_eq!(floats(&state, "d.scalar"), [3.0]);
        assert_eq!(state.tensors["d.empty"].dims(), [0, 3]);
    }
    let state = of(PYTHON_2)?;
    assert_eq!(floats(&state, "whole"), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(floats(&state, "part"), [2.0, 3.0]);
    Ok(())
}

#[test]
fn numbers_of_a_machine_with_the_other_byte_order() -> Result<()> {
    let pickle = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
        X\x01\0\0\x000X\x03\0\0\0cpuK\x02tQK\0K\x02\x85K\x01\x85\x89}tRs.";
    let numbers = [1.5f32.to_be_bytes(), (-2f32).to_be_bytes()].concat();
    let members: [(&str, &[u8]); 3] = [
        ("data.pkl", pickle),
        ("byteorder", b"big"),
        ("data/0", &numbers),
    ];
    let state = read(zip_of(&members).path(), &all)?;
    assert_eq!(floats(&state, "w"), [1.5, -2.0]);
    Ok(())
}

#[test]
fn a_program_is_not_run() {
    // os.system("true"): what an unpickler would carry out, in either layout.
    let program = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.";
    let text = "pickle opcode 0x63 at byte 2: os.system is not a class that tensors need; hint:";
    let file = zip_of(&[("data.pkl", program)]);
    let zipped = format!("{:#}", read(file.path(), &all).unwrap_err());
    assert!(zipped.contains(&format!("data.pkl: {text}")), "{zipped}");
    let plain = error(&old(program, b"\x80\x02].", b""));
    assert!(
        plain.contains(&format!("the state dict: {text}")),
        "{plain}"
    );
    // INST, which we do not know at all.
    let file = zip_of(&[("data.pkl", b"\x80\x02(ios\nsystem\n.")]);
    let error = format!("{:#}", read(file.path(), &all).unwrap_err());
    assert!(
        error.contains("pickle opcode 0x69 at byte 3: it is not needed"),
        "{error}"
    );
}

#[test]
fn damage_is_an_error_and_no_panic() {
    let programs: [&[u8]; 7] = [
        b"",
        b"\x80",
        b"\x85.",
        b"K\x01.",
        b"X\xff\xff\xff\xff",
        b"u.",
        b"h\x05.",
    ];
    for program in programs {
        let file = zip_of(&[("data.pkl", program)]);
        assert!(read(file.path(), &all).is_err(), "{program:?}");
        assert!(of(&old(program, b"", b"")).is_err(), "{program:?}");
    }
    for end in (0..OLD.len()).step_by(7) {
        assert!(of(&OLD[..end]).is_err(), "{end}");
    }
    let text = error(&OLD[..OLD.len() - 1]);
    assert!(text.contains("it ends inside of storage"), "{text}");
    for at in (0..OLD.len()).step_by(3) {
        for value in [0, b'(', b'.', 0xff] {
            let mut changed = OLD.to_vec();
            changed[at] = value;
            // Either is right; what matters is that it returns.
            let _ = of(&changed);
        }
    }
}

#[test]
fn memory_is_not_asked_for_by_the_file_alone() {
    let tensor = |count: &str, shape: &str, stride: &str| {
        let pickle = format!(
            "\u{80}\u{2}}}X\u{1}\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\u{7}\0\0\0storagectorch\nFloatStorage\n\
             X\u{1}\0\0\x000X\u{3}\0\0\0cpuL{count}\ntQK\0(L{shape}\nt(L{stride}\nt\u{89}}}tRs."
        );
        let pickle: Vec<u8> = pickle.chars().map(|c| c as u8).collect();
        old(
            &pickle,
            b"\x80\x02]X\x01\0\0\x000a.",
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
    };
    assert!(of(&tensor("1", "1", "1")).is_ok());
    // A number repeated without end, a storage that would be large, and a place far behind it.
    let repeated = error(&tensor("1", "99999999999", "0"));
    assert!(
        repeated.contains("the tensors take more than"),
        "{repeated}"
    );
    let text = error(&tensor("99999999999", "1", "1"));
    assert!(
        text.contains("holds 1 numbers, and tensors say 99999999999"),
        "{text}"
    );
    let text = error(&tensor("1", "2", "9223372036854775807"));
    assert!(text.contains("its storage is too short"), "{text}");
    // Doubled forty times, nested a million times, copied again and again.
    let doubled = [
        b"\x80\x02)q\0".to_vec(),
        b"h\0h\0\x86q\0".repeat(40),
        b".".to_vec(),
    ]
    .concat();
    let nested = [
        b"\x80\x02)".to_vec(),
        b"\x85".repeat(1_000_000),
        b".".to_vec(),
    ]
    .concat();
    let endless = [b"\x80\x02".to_vec(), b"N0".repeat(3_000_000), b".".to_vec()].concat();
    let encode = b"\x80\x02c_codecs\nencode\nq\x01X\0\0\x10\0".to_vec();
    let again = b"0h\x01h\x02\x85R".repeat(400);
    let copied = [
        encode,
        vec![b'a'; 1 << 20],
        b"q\x02".to_vec(),
        again,
        b".".to_vec(),
    ]
    .concat();
    for (program, why) in [
        (doubled, "it holds a tuple without tensors"),
        (nested, "it holds a tuple without tensors"),
        (endless, "more than 5000000 instructions"),
        (copied, "bytes of copies"),
    ] {
        let text = error(&old(&program, b"\x80\x02].", b""));
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn what_is_no_state_dict_is_named() {
    for (bytes, why) in [
        (
            &b"<!doctype html>"[..],
            "is a web page and not a .pth file of PyTorch",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer and not",
        ),
        (b"\x80\x02K\x01.", "is a pickle of Python and not"),
        (b"", "is empty and not"),
    ] {
        let text = error(bytes);
        assert!(text.contains(why), "{text}");
    }
    let named = |members: &[(&str, &[u8])]| {
        format!("{:#}", read(zip_of(members).path(), &all).unwrap_err())
    };
    assert!(
        named(&[
            ("code/x.py", b""),
            ("constants.pkl", b""),
            ("data.pkl", b"")
        ])
        .contains("TorchScript")
    );
    assert!(named(&[("mu.npy", b"")]).contains("it is a .npz of numpy"));
    assert!(named(&[("a.txt", b"")]).contains("a zip archive without data.pkl"));
    assert!(
        named(&[("data.pkl", b"\x80\x02K\x01.")]).contains("it holds a number without tensors")
    );
    let torch = "ctorch._utils\n_rebuild_tensor_v2\n((X\u{7}\0\0\0storagectorch\nFloatStorage\n\
        X\u{1}\0\0\x000X\u{3}\0\0\0cpuK\u{1}tQK\0))}}tR";
    let one = |name| format!("X\u{1}\0\0\0{name}}}X\u{1}\0\0\0w{torch}ss");
    let two = format!("\u{80}\u{2}}}{}{}.", one('a'), one('b'));
    let two: Vec<u8> = two.chars().map(|c| c as u8).collect();
    let text = named(&[("data.pkl", &two)]);
    assert!(
        text.contains("it holds 2 state dicts, `a` and `b`; hint: save the one"),
        "{text}"
    );
}
