//! State dicts as PyTorch writes them, for tests.

use std::collections::BTreeMap;
use std::io::Write;

use candle_core::Tensor;

fn text(text: &str) -> Vec<u8> {
    [
        &b"X"[..],
        &(text.len() as u32).to_le_bytes(),
        text.as_bytes(),
    ]
    .concat()
}

fn numbers(tensor: &Tensor) -> Vec<u8> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The pickle of f32 tensors, each of a storage of its own that is named by a number.
fn pickle(state: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let size = |n: usize| [&b"J"[..], &(n as i32).to_le_bytes()].concat();
    let sizes = |all: &[usize]| {
        [
            &b"("[..],
            &all.iter().copied().flat_map(size).collect::<Vec<u8>>(),
            b"t",
        ]
        .concat()
    };
    let mut program = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (i, (name, tensor)) in state.iter().enumerate() {
        let (count, shape) = (tensor.elem_count(), tensor.dims());
        program.extend(text(name));
        program.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        program.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec()].concat());
        program.extend(
            [
                text(&i.to_string()),
                text("cpu"),
                size(count),
                b"tQK\0".to_vec(),
            ]
            .concat(),
        );
        program.extend([sizes(shape), sizes(tensor.stride())].concat());
        program.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    [&program[..], b"u."].concat()
}

/// In the layout before 1.6.
pub fn old(state: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let mut file =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}."
            .to_vec();
    file.extend(pickle(state));
    let keys: Vec<u8> = (0..state.len())
        .flat_map(|i| text(&i.to_string()))
        .collect();
    file.extend([b"\x80\x02](", &keys[..], b"e."].concat());
    for tensor in state.values() {
        file.extend((tensor.elem_count() as u64).to_le_bytes());
        file.extend(numbers(tensor));
    }
    file
}

/// In that of today.
pub fn zipped(state: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    let plain =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut put = |name: String, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), plain).unwrap();
        zip.write_all(bytes).unwrap();
    };
    put("data.pkl".into(), &pickle(state));
    for (i, tensor) in state.values().enumerate() {
        put(format!("data/{i}"), &numbers(tensor));
    }
    zip.finish().unwrap().into_inner()
}
