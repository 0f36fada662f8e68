//! Arrays that numpy saved: `.npy`, and `.npz`, a zip archive of such files.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;

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

impl Array {
    /// The array of a `.npy` file.
    pub fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Self::read(BufReader::new(file)).with_context(|| broken(path))
    }

    /// The arrays of a `.npz` file, by name.
    pub fn load_all(path: &Path) -> Result<Vec<(String, Self)>> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut zip = ZipArchive::new(BufReader::new(file))
            .context("it is not a whole zip archive; hint: copy it again")
            .with_context(|| broken(path))?;
        let mut all = vec![];
        for i in 0..zip.len() {
            let entry = zip.by_index(i).with_context(|| broken(path))?;
            let name = entry.name().with_context(|| broken(path))?;
            let name = name.trim_end_matches(".npy").to_string();
            let array = Self::read(entry).with_context(|| format!("{}: {name}", broken(path)))?;
            all.push((name, array));
        }
        Ok(all)
    }

    fn read(mut file: impl Read) -> Result<Self> {
        let header = Header::read(&mut file)?;
        let (kind, size) = header.dtype.split_at_checked(2).context("no dtype")?;
        let width = size.parse::<usize>().unwrap_or(0);
        let count = header
            .shape
            .iter()
            .try_fold(1usize, |n, &m| n.checked_mul(m));
        let length = count.and_then(|n| n.checked_mul(width.max(1)));
        let length =
            length.with_context(|| format!("its shape {:?} is too large", header.shape))?;
        let mut bytes = vec![];
        file.take(length as u64).read_to_end(&mut bytes)?;
        ensure!(
            bytes.len() == length,
            "it ends after {} of {length} bytes; hint: copy it again",
            bytes.len()
        );
        let big = kind.starts_with('>');
        let values = match (&kind[1..], width) {
            ("u", 1) => Values::Bytes(header.in_rows(&bytes)),
            ("f", 4) => Values::Floats(header.in_rows(&floats::<4>(&bytes, big, |b| {
                f64::from(f32::from_le_bytes(b))
            }))),
            ("f", 8) => {
                Values::Floats(header.in_rows(&floats::<8>(&bytes, big, f64::from_le_bytes)))
            }
            _ => bail!(
                "it holds numpy's {:?}; hint: uint8, float32 and float64 are read",
                header.dtype
            ),
        };
        Ok(Self {
            shape: header.shape,
            values,
        })
    }
}

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

/// What stands before the numbers, as a Python dictionary.
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
            start.starts_with(b"\x93NUMPY"),
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
        let plain = Array::read(&npy("|u1", "False", shape, &rows)[..])?;
        let fortran = Array::read(&npy("|u1", "True", shape, &columns)[..])?;
        assert_eq!(plain, fortran);
        assert_eq!(plain.shape, [2, 3, 4]);
        assert_eq!(plain.values, Values::Bytes(rows));
        Ok(())
    }

    #[test]
    fn both_float_types_in_both_byte_orders() -> Result<()> {
        let expected = Values::Floats(vec![0.5, -2.0]);
        for (descr, bytes) in [
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
            let array = Array::read(&npy(descr, "False", "(2,)", &bytes)[..])?;
            assert_eq!((&array.shape, &array.values), (&vec![2], &expected));
        }
        Ok(())
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let whole = npy("<f8", "True", "(2, 2)", &[0; 32]);
        let error = |bytes: &[u8]| format!("{:#}", Array::read(bytes).unwrap_err());
        assert!(error(&whole[..150]).contains("it ends after 22 of 32 bytes"));
        assert!(error(b"PK\x03\x04 a zip").contains("it is not an array of numpy"));
        let text = error(&npy("<i8", "False", "(1,)", &[0; 8]));
        assert!(text.contains("it holds numpy's \"<i8\""), "{text}");
        let huge = "(99999999999, 99999999999)";
        assert!(error(&npy("<f8", "False", huge, &[])).contains("is too large"));
        assert!(error(&npy("<f8", "False", "(9999999999,)", &[])).contains("it ends after 0"));
        for end in 0..whole.len() {
            assert!(Array::read(&whole[..end]).is_err());
        }
        for at in 0..128 {
            for value in [0, b'(', b'\'', 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                // Either is right; what matters is that it returns.
                let _ = Array::read(&changed[..]);
            }
        }
    }
}
