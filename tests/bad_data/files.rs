//! Files of the formats that are read, good ones and bad ones.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

pub use super::common::Space;

/// Files below a folder, sorted.
pub fn below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![];
    };
    let paths = entries.map(|e| e.expect("an entry").path());
    let mut all: Vec<PathBuf> = paths
        .flat_map(|p| if p.is_dir() { below(&p) } else { vec![p] })
        .collect();
    all.sort();
    all
}

pub fn put(space: &Space, name: &str, bytes: &[u8]) {
    let path = space.path(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("a file");
}

/// A file of `tests/golden`.
pub fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read(folder.join(name)).expect("a golden file")
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = Crc::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.sum()
}

/// A black picture.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(vec![], Compression::fast());
    let row = vec![0; 1 + 3 * width as usize];
    (0..height).for_each(|_| packed.write_all(&row).expect("memory"));
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 2, 0, 0, 0]);
    let chunks: [(&[u8], _); 3] = [
        (b"IHDR", header),
        (b"IDAT", packed.finish().expect("memory")),
        (b"IEND", vec![]),
    ];
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, content) in chunks {
        file.extend((content.len() as u32).to_be_bytes());
        file.extend(name);
        file.extend(&content);
        file.extend(crc(&[name, &content]).to_be_bytes());
    }
    file
}

/// A zip archive that packs nothing, as PyTorch and numpy write.
pub fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut list) = (vec![], vec![]);
    for (name, content) in members {
        let at = file.len() as u32;
        let size = (content.len() as u32).to_le_bytes();
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        about.extend(crc(&[content]).to_le_bytes());
        about.extend([size, size].concat());
        about.extend((name.len() as u16).to_le_bytes());
        about.extend([0, 0]);
        file.extend([b"PK\x03\x04", &about[..], name.as_bytes(), content].concat());
        list.extend([b"PK\x01\x02\x14\0", &about[..]].concat());
        list.extend([0; 10]);
        list.extend(at.to_le_bytes());
        list.extend(name.as_bytes());
    }
    let (count, at) = (members.len() as u16, file.len() as u32);
    let length = (list.len() as u32).to_le_bytes();
    file.extend(list);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend([length, at.to_le_bytes()].concat());
    file.extend([0, 0]);
    file
}

/// An array as numpy saves it, in rows or (`fortran`) in columns.
pub fn npy(dtype: &str, fortran: bool, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let header = format!("{header:117}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), bytes].concat()
}

/// A safetensors file of one f32 tensor.
pub fn safetensors(name: &str, shape: &[usize], value: f32) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let header = format!(
        "{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[0,{}]}}}}",
        4 * count
    );
    let length = (header.len() as u64).to_le_bytes();
    [
        &length[..],
        header.as_bytes(),
        &value.to_le_bytes().repeat(count),
    ]
    .concat()
}
