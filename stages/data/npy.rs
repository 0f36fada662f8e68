//! Arrays that numpy saved: `.npy`, and `.npz`, a zip archive of such files.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use half::f16;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::guess;
use super::pickle::{self, Cell, Value};

/// An array in row-major order, whichever order it was saved in.
#[derive(Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Values,
}

#[derive(Debug, PartialEq)]
pub enum Values {
    Bytes(Vec<u8>),
    Floats(Vec<f64>),
}

/// The arrays of one file by name: a `.npz`, a `.npy`, whose array has none, or a dict that Python pickled. Only
/// those that are asked for are read, so that no other makes a file unreadable.
pub struct Arrays {
    path: PathBuf,
    heads: Vec<(String, Header)>,
    content: Content,
    /// What is said of how they were found.
    pub remark: Option<String>,
}

enum Content {
    /// Where each lies.
    Zip(ZipArchive<BufReader<File>>, Vec<usize>),
    /// Its numbers follow.
    Plain(BufReader<File>),
    Pickled(Vec<Rc<[u8]>>),
}

/// Of arrays of floats, which statistics alone are: sigma of 11585 features.
const FLOATS: usize = 1 << 27;
/// Bytes that any file may unpack to, and how many for each one packed.
const UNPACKED: usize = 1 << 30;
const PACKED: usize = 200;
/// Of a text.
const LETTERS: usize = 1 << 14;

/// What is written.
pub enum Entry<'a> {
    Floats(&'a [f64], &'a [usize]),
    Text(&'a str),
}

/// A `.npz` of these, as `numpy.savez` writes it.
pub fn save_all(path: &Path, entries: &[(&str, Entry)]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut zip = ZipWriter::new(BufWriter::new(file));
    let plain = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for (name, entry) in entries {
        let (dtype, shape, bytes): (_, &[usize], Vec<u8>) = match entry {
            Entry::Floats(values, shape) => {
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                ("<f8".to_string(), shape, bytes)
            }
            Entry::Text(text) => {
                let bytes = text
                    .chars()
                    .flat_map(|c| u32::from(c).to_le_bytes())
                    .collect();
                (format!("<U{}", text.chars().count()), &[], bytes)
            }
        };
        let sizes: String = shape.iter().map(|n| format!("{n},")).collect();
        let header =
            format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({sizes}), }}");
        // Numbers begin at a multiple of 64.
        let header = format!(
            "{header:width$}\n",
            width = (header.len() + 11).next_multiple_of(64) - 11
        );
        zip.start_file(format!("{name}.npy"), plain)?;
        zip.write_all(&[MAGIC, b"\x01\0", &(header.len() as u16).to_le_bytes()].concat())?;
        zip.write_all(header.as_bytes())?;
        zip.write_all(&bytes)?;
    }
    zip.finish()?.flush()?;
    Ok(())
}

impl Arrays {
    /// Told by content, not by name.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut file = BufReader::new(file);
        let mut start = vec![];
        file.by_ref().take(512).read_to_end(&mut start)?;
        file.seek(SeekFrom::Start(0))?;
        let all = if start.starts_with(b"PK") {
            Self::zipped(path, file)
        } else if start.starts_with(MAGIC) {
            Self::plain(path, file)
        } else if start.starts_with(b"\x80") {
            Self::pickled(path, file)
        } else {
            let other = guess::other(&start);
            Err(anyhow!(
                "it is not an array of numpy{}",
                other.map_or("; hint: numpy.save writes one".into(), |other| format!(
                    ": {other}"
                ))
            ))
        };
        all.with_context(|| broken(path))
    }

    fn zipped(path: &Path, file: BufReader<File>) -> Result<Self> {
        let mut zip =
            ZipArchive::new(file).context("it is not a whole zip archive; hint: copy it again")?;
        let (mut heads, mut places) = (vec![], vec![]);
        for i in 0..zip.len() {
            let mut entry = zip.by_index(i)?;
            let name = entry.name()?.to_string();
            let Some(name) = name.strip_suffix(".npy") else {
                continue;
            };
            let head = Header::read(&mut entry).with_context(|| name.to_string())?;
            heads.push((name.to_string(), head));
            places.push(i);
        }
        ensure!(
            !heads.is_empty(),
            "it is a zip archive without arrays of numpy; hint: numpy.savez writes one; pictures have to be unpacked"
        );
        // numpy.savez(file, stats={...}) pickles the dict.
        let dict = match &heads[..] {
            [(name, head)] if head.is_object() => Some(name.clone()),
            _ => None,
        };
        if let Some(name) = dict {
            let mut entry = zip.by_index(places[0])?;
            Header::read(&mut entry)?;
            return Self::pickled(path, BufReader::new(entry)).context(name);
        }
        Ok(Self {
            path: path.to_path_buf(),
            heads,
            content: Content::Zip(zip, places),
            remark: None,
        })
    }

    fn plain(path: &Path, mut file: BufReader<File>) -> Result<Self> {
        let head = Header::read(&mut file)?;
        if head.is_object() {
            return Self::pickled(path, file);
        }
        Ok(Self {
            path: path.to_path_buf(),
            heads: vec![(String::new(), head)],
            content: Content::Plain(file),
            remark: None,
        })
    }

    /// A dict of arrays, which numpy.save wraps in an array of one object.
    fn pickled(path: &Path, mut program: impl BufRead) -> Result<Self> {
        let (root, heap) =
            pickle::run(&mut program).context("it is a pickle of Python that is not read")?;
        let root = match heap.cell(&root) {
            Some(Cell::Array(array)) => {
                match array.content.as_ref().and_then(|list| heap.items(list)) {
                    Some([only]) => only.clone(),
                    _ => root.clone(),
                }
            }
            _ => root.clone(),
        };
        let Some(pairs) = heap.dict(&root) else {
            bail!(
                "it is a pickle of Python with {}, and a dict of arrays is read; hint: numpy.savez(file, mu=..., \
                 sigma=...)",
                heap.describe(&root)
            )
        };
        let (mut heads, mut contents) = (vec![], vec![]);
        for (key, value) in pairs {
            let (Some(name), Some(Cell::Array(array))) = (key.text(), heap.cell(value)) else {
                continue;
            };
            let content = match &array.content {
                Some(Value::Bytes(bytes)) => bytes.clone(),
                Some(text @ Value::Text(_)) => text.bytes().unwrap_or_default().into(),
                _ => continue,
            };
            let head = Header {
                dtype: array.dtype.clone(),
                columns_first: array.columns_first,
                shape: array.shape.clone(),
            };
            heads.push((name.to_string(), head));
            contents.push(content);
        }
        Ok(Self {
            path: path.to_path_buf(),
            heads,
            content: Content::Pickled(contents),
            remark: Some("arrays of a pickled dict, read without running it".into()),
        })
    }

    /// Name, numpy's element type and shape of each.
    pub fn list(&self) -> impl Iterator<Item = (&str, &str, &[usize])> {
        let heads = self.heads.iter();
        heads.map(|(name, head)| (&name[..], &head.dtype[..], &head.shape[..]))
    }

    /// What there is, in words.
    pub fn describe(&self) -> String {
        let mut all: Vec<String> = self
            .list()
            .take(8)
            .map(|(name, dtype, shape)| {
                format!("{name} {} {shape:?}", spoken(dtype))
                    .trim_start()
                    .to_string()
            })
            .collect();
        match self.heads.len() {
            0 => all.push("no arrays".into()),
            n if n > all.len() => all.push(format!("{} more", n - all.len())),
            _ => {}
        }
        all.join(", ")
    }

    /// A single text, if there is one of that name: how it was stored is no matter of numbers.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.heads.iter().position(|(known, _)| known == name)?;
        let head = &self.heads[at].1;
        let letters: usize = head.dtype.strip_prefix("<U")?.parse().ok()?;
        let Content::Zip(zip, places) = &mut self.content else {
            return None;
        };
        if !head.shape.is_empty() || letters > LETTERS {
            return None;
        }
        let mut entry = zip.by_index(places[at]).ok()?;
        Header::read(&mut entry).ok()?;
        let mut bytes = vec![];
        entry
            .take(4 * letters as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        let letter = |four: &[u8]| char::from_u32(u32::from_le_bytes(four.try_into().ok()?));
        let text: Option<String> = bytes.chunks_exact(4).map(letter).collect();
        Some(text?.trim_end_matches('\0').to_string())
    }

    pub fn get(&mut self, name: &str) -> Result<Array> {
        let context = || match name {
            "" => broken(&self.path),
            name => format!("{}: {name}", broken(&self.path)),
        };
        let at = self.heads.iter().position(|(known, _)| known == name);
        let at = at.with_context(|| format!("BUG: there is no array {name}"))?;
        let head = &self.heads[at].1;
        match &mut self.content {
            Content::Zip(zip, places) => {
                let mut entry = zip.by_index(places[at])?;
                let packed = usize::try_from(entry.compressed_size()).unwrap_or(usize::MAX);
                Header::read(&mut entry)
                    .and_then(|_| head.numbers(entry, packed.saturating_mul(PACKED)))
                    .with_context(context)
            }
            // Of a file nobody unpacks, no more can be read than there is.
            Content::Plain(file) => head.numbers(file, usize::MAX).with_context(context),
            Content::Pickled(contents) => head
                .numbers(&contents[at][..], usize::MAX)
                .with_context(context),
        }
    }
}

const MAGIC: &[u8] = b"\x93NUMPY";
const CUT_OFF: &str = "it is cut off; hint: copy it again";

fn broken(path: &Path) -> String {
    format!("{} could not be read", path.display())
}

fn floats<const N: usize>(bytes: &[u8], big: bool, of: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    let number = |chunk: &[u8]| {
        let mut whole = [0; N];
        whole.copy_from_slice(chunk);
        if big {
            whole.reverse();
        }
        of(whole)
    };
    bytes.chunks_exact(N).map(number).collect()
}

/// Numpy's name of an element type, as `float64` for `<f8`.
pub fn spoken(dtype: &str) -> String {
    let bytes = dtype.get(2..).and_then(|size| size.parse::<usize>().ok());
    let bits = |word: &str| format!("{word}{}", bytes.unwrap_or(0).saturating_mul(8));
    match dtype.get(1..2) {
        Some("f") => bits("float"),
        Some("u") => bits("uint"),
        Some("i") => bits("int"),
        Some("c") => bits("complex"),
        Some("b") => "bool".into(),
        Some("U" | "S") => "text".into(),
        Some("O") => "object".into(),
        _ => dtype.into(),
    }
}

/// What stands before the numbers, as a Python dictionary.
#[derive(Debug)]
struct Header {
    /// Byte order, letter and bytes, such as `<f8` and `|u1`.
    dtype: String,
    columns_first: bool,
    shape: Vec<usize>,
}

impl Header {
    fn read(file: &mut impl Read) -> Result<Self> {
        let mut start = [0; 8];
        file.read_exact(&mut start).context(CUT_OFF)?;
        ensure!(
            start.starts_with(MAGIC),
            "it is not an array of numpy; hint: numpy.save writes one"
        );
        let mut length = [0; 4];
        let of_length = if start[6] == 1 { 2 } else { 4 };
        file.read_exact(&mut length[..of_length]).context(CUT_OFF)?;
        let length = u32::from_le_bytes(length);
        ensure!(length < 1 << 16, "its header takes {length} bytes");
        let mut text = String::new();
        let read = file.take(length.into()).read_to_string(&mut text)?;
        ensure!(read == length as usize, CUT_OFF);
        Self::parse(&text).with_context(|| format!("its header is {text:?}"))
    }

    /// Python's own objects, pickled.
    fn is_object(&self) -> bool {
        self.dtype.ends_with('O')
    }

    /// The numbers that follow. `limit`: bytes that they may take for sure.
    fn numbers(&self, file: impl Read, limit: usize) -> Result<Array> {
        let (kind, size) = self.dtype.split_at_checked(2).context("no dtype")?;
        let width = size.parse::<usize>().unwrap_or(0);
        let big = kind.starts_with('>');
        let of = match (kind.get(1..).unwrap_or_default(), width) {
            ("u", 1) => None,
            ("f", 2) => Some(2),
            ("f", 4) => Some(4),
            ("f", 8) => Some(8),
            _ => bail!(
                "it holds numpy's {:?}; hint: uint8, float16, float32 and float64 are read",
                self.dtype
            ),
        };
        let count = self.shape.iter().try_fold(1usize, |n, &m| n.checked_mul(m));
        let length = count.and_then(|n| n.checked_mul(width));
        let large = || format!("its shape {:?} is too large", self.shape);
        let length = length.with_context(large)?;
        ensure!(of.is_none() || length / width <= FLOATS, large());
        ensure!(
            length <= limit.max(UNPACKED),
            "{} for a file that small; hint: is it damaged?",
            large()
        );
        let mut bytes = vec![];
        file.take(length as u64).read_to_end(&mut bytes)?;
        ensure!(
            bytes.len() == length,
            "it ends after {} of {length} bytes; hint: copy it again",
            bytes.len()
        );
        let values = match of {
            None => Values::Bytes(self.in_rows(&bytes)),
            Some(2) => Values::Floats(self.in_rows(&floats::<2>(&bytes, big, |b| {
                f16::from_le_bytes(b).to_f64()
            }))),
            Some(4) => Values::Floats(self.in_rows(&floats::<4>(&bytes, big, |b| {
                f64::from(f32::from_le_bytes(b))
            }))),
            _ => Values::Floats(self.in_rows(&floats::<8>(&bytes, big, f64::from_le_bytes))),
        };
        Ok(Array {
            shape: self.shape.clone(),
            values,
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let after = |key: &str| {
            let rest = text.split(&format!("'{key}':")).nth(1);
            rest.map(str::trim_start)
                .with_context(|| format!("no {key}"))
        };
        let dtype = after("descr")?.split('\'').nth(1).context("a record")?;
        let shape = after("shape")?.strip_prefix('(').context("no shape")?;
        let shape = shape.split(')').next().unwrap_or_default();
        let sizes = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
        Ok(Self {
            dtype: dtype.to_string(),
            columns_first: after("fortran_order")?.starts_with("True"),
            shape: sizes.map(str::parse).collect::<Result<_, _>>()?,
        })
    }

    /// Numpy calls an array whose first index runs fastest one in Fortran order.
    fn in_rows<T: Copy>(&self, values: &[T]) -> Vec<T> {
        if !self.columns_first {
            return values.to_vec();
        }
        let mut strides = vec![1; self.shape.len()];
        for i in 1..strides.len() {
            strides[i] = strides[i - 1] * self.shape[i - 1];
        }
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        let mut out = Vec::with_capacity(values.len());
        for _ in 0..values.len() {
            out.push(values[at]);
            for i in (0..index.len()).rev() {
                index[i] += 1;
                at += strides[i];
                if index[i] < self.shape[i] {
                    break;
                }
                at -= strides[i] * self.shape[i];
                index[i] = 0;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As numpy writes it: version 1, the header padded to 64 bytes.
    fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut header =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), data].concat()
    }

    fn array(mut bytes: &[u8]) -> Result<Array> {
        let head = Header::read(&mut bytes)?;
        head.numbers(bytes, usize::MAX)
    }

    #[test]
    fn rows_first_and_columns_first_are_the_same_array() -> Result<()> {
        // numpy.arange(24).reshape(2, 3, 4), and numpy.asfortranarray of it.
        let rows: Vec<u8> = (0..24).collect();
        let mut columns = vec![];
        for k in 0..4 {
            for j in 0..3 {
                columns.extend((0..2).map(|i| 12 * i + 4 * j + k));
            }
        }
        let shape = "(2, 3, 4)";
        let plain = array(&npy("|u1", "False", shape, &rows)[..])?;
        let fortran = array(&npy("|u1", "True", shape, &columns)[..])?;
        assert_eq!(plain, fortran);
        assert_eq!(plain.shape, [2, 3, 4]);
        assert_eq!(plain.values, Values::Bytes(rows));
        Ok(())
    }

    #[test]
    fn all_float_types_in_both_byte_orders() -> Result<()> {
        let expected = Values::Floats(vec![0.5, -2.0]);
        for (descr, bytes) in [
            ("<f2", vec![0x00, 0x38, 0x00, 0xc0]),
            (">f2", vec![0x38, 0x00, 0xc0, 0x00]),
            (
                "<f4",
                [0.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat(),
            ),
            (
                ">f4",
                [0.5f32.to_be_bytes(), (-2f32).to_be_bytes()].concat(),
            ),
            (
                "<f8",
                [0.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat(),
            ),
            (
                ">f8",
                [0.5f64.to_be_bytes(), (-2f64).to_be_bytes()].concat(),
            ),
        ] {
            let array = array(&npy(descr, "False", "(2,)", &bytes)[..])?;
            assert_eq!((&array.shape, &array.values), (&vec![2], &expected));
        }
        Ok(())
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let whole = npy("<f8", "True", "(2, 2)", &[0; 32]);
        let error = |bytes: &[u8]| format!("{:#}", array(bytes).unwrap_err());
        assert!(error(&whole[..150]).contains("it ends after 22 of 32 bytes"));
        assert!(error(b"PK\x03\x04 a zip").contains("it is not an array of numpy"));
        let text = error(&npy("<i8", "False", "(1,)", &[0; 8]));
        assert!(text.contains("it holds numpy's \"<i8\""), "{text}");
        let huge = "(99999999999, 99999999999)";
        assert!(error(&npy("<f8", "False", huge, &[])).contains("is too large"));
        assert!(error(&npy("<f8", "False", "(9999999999,)", &[])).contains("is too large"));
        assert!(error(&npy("|u1", "False", "(9999999999,)", &[])).contains("it ends after 0"));
        for end in 0..whole.len() {
            assert!(array(&whole[..end]).is_err());
        }
        for at in 0..128 {
            for value in [0, b'(', b'\'', 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                // Either is right; what matters is that it returns.
                let _ = array(&changed[..]);
            }
        }
    }
}
