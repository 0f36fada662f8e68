//! Artifact `images` as models draw it: uint8, or floats that nobody clipped or rounded (A23).

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use safetensors::tensor::Dtype;

use super::images::Images;
use super::tensors::{Entry, Number, TensorFile, save};

/// Images for those who measure or show them; what trains wants [`Images`].
pub enum AnyImages {
    Bytes(Images),
    Floats(Floats),
}

/// f32 pixels `[n, height, width, channels]` on the scale of bytes, in the mapped file.
pub struct Floats {
    n: usize,
    shape: [usize; 3],
    file: TensorFile,
    pixels: Range<usize>,
}

impl AnyImages {
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        if file.dtype("images") != Some(Dtype::F32) {
            return Ok(Self::Bytes(Images::load(path)?));
        }
        let (shape, pixels) = file.find("images", Dtype::F32, 4)?;
        let (n, shape) = (shape[0], [shape[1], shape[2], shape[3]]);
        Ok(Self::Floats(Floats {
            n,
            shape,
            file,
            pixels,
        }))
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        match self {
            Self::Bytes(images) => images.n,
            Self::Floats(images) => images.n,
        }
    }

    /// Height, width, channels.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Bytes(images) => images.shape(),
            Self::Floats(images) => images.shape,
        }
    }

    /// Where they come from; of generated images nothing.
    pub fn source(&self) -> Option<String> {
        match self {
            Self::Bytes(images) => images.source.clone(),
            Self::Floats(_) => None,
        }
    }

    /// One image, uint8 or not.
    pub fn floats(&self, index: usize) -> Vec<f32> {
        match self {
            Self::Bytes(images) => images.image(index).iter().map(|&v| f32::from(v)).collect(),
            Self::Floats(images) => images.image(index),
        }
    }

    /// One image as one can look at it: clipped and rounded.
    pub fn bytes(&self, index: usize) -> Vec<u8> {
        match self {
            Self::Bytes(images) => images.image(index).to_vec(),
            // `as` clips, and makes 0 of what is no number.
            Self::Floats(images) => images
                .image(index)
                .iter()
                .map(|v| v.round() as u8)
                .collect(),
        }
    }
}

impl Floats {
    /// Writes pixels that are little-endian bytes of f32; `shape` is height, width, channels.
    pub fn save(path: &Path, shape: [usize; 3], pixels: &[u8]) -> Result<()> {
        let [height, width, channels] = shape;
        let size = height * width * channels * size_of::<f32>();
        let entry = Entry {
            name: "images",
            dtype: Dtype::F32,
            shape: vec![pixels.len() / size, height, width, channels],
            bytes: pixels,
        };
        save(path, &[entry], &None::<String>)
    }

    fn image(&self, index: usize) -> Vec<f32> {
        let size = self.shape.iter().product::<usize>() * size_of::<f32>();
        let all = self.file.bytes(self.pixels.clone());
        let pixels = all[index * size..(index + 1) * size].chunks_exact(size_of::<f32>());
        pixels.map(f32::from_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sorts_are_read_and_shown() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (floats, bytes) = (dir.path().join("floats"), dir.path().join("bytes"));
        let pixels = [-3.0, 0.5, 254.4, 300.0, f32::NAN, 7.0];
        Floats::save(&floats, [1, 2, 1], &f32::to_bytes(&pixels))?;
        let drawn = AnyImages::load(&floats)?;
        assert_eq!(
            (drawn.n(), drawn.shape(), drawn.source()),
            (3, [1, 2, 1], None)
        );
        assert_eq!(drawn.floats(1), [254.4, 300.0]);
        let shown: Vec<u8> = (0..3).flat_map(|i| drawn.bytes(i)).collect();
        assert_eq!(shown, [0, 1, 254, 255, 0, 7]);

        let mut images = Images::new([1, 2, 1], vec![1, 2, 3, 4], None)?;
        images.source = Some("two test".into());
        images.save(&bytes)?;
        let drawn = AnyImages::load(&bytes)?;
        assert_eq!((drawn.n(), drawn.shape()), (2, [1, 2, 1]));
        assert_eq!(drawn.source().as_deref(), Some("two test"));
        assert_eq!(
            (drawn.floats(1), drawn.bytes(1)),
            (vec![3.0, 4.0], vec![3, 4])
        );
        Ok(())
    }

    /// What trains on images, and what counts their bits, wants whole numbers.
    #[test]
    fn floats_are_no_images_to_train_on() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("images.safetensors");
        Floats::save(&path, [1, 1, 1], &f32::to_bytes(&[0.5]))?;
        let error = Images::load(&path).err().unwrap().to_string();
        assert!(
            error.ends_with(
                "images.safetensors holds images as floats, and uint8 ones are wanted here; hint: \
                 the stage that drew them has the parameter pixels = \"bytes\""
            ),
            "{error}"
        );
        Ok(())
    }
}
