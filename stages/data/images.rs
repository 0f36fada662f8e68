//! Artifact `images`: uint8 pictures `[n, height, width, channels]` with optional labels.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Dtype;

use super::tensors::{Entry, TensorFile, save};

/// Images of one size. A loaded set stays in the mapped file, shared by all processes that use it.
pub struct Images {
    pub n: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pixels: Pixels,
    /// One class per image, where the source has classes.
    pub labels: Option<Vec<u8>>,
    /// Where they come from, such as `cifar10 test`; of generated images nothing.
    pub source: Option<String>,
    resident: Resident,
}

/// All pixels on a GPU, once a batch was asked for there.
#[derive(Default)]
struct Resident(OnceLock<Tensor>);

/// Sets larger than this many bytes stay on the host, and their batches travel.
const RESIDENT: usize = 4 << 30;

enum Pixels {
    Owned(Vec<u8>),
    Mapped(TensorFile, std::ops::Range<usize>),
}

impl Images {
    /// `pixels` in the order image, row, column, channel; `shape` is height, width, channels.
    pub fn new(shape: [usize; 3], pixels: Vec<u8>, labels: Option<Vec<u8>>) -> Result<Self> {
        let [height, width, channels] = shape;
        let size = height * width * channels;
        ensure!(
            size > 0,
            "images of {height}x{width}x{channels} hold no pixels"
        );
        let n = pixels.len() / size;
        ensure!(
            n * size == pixels.len() && labels.as_ref().is_none_or(|l| l.len() == n),
            "{} bytes and {:?} labels are no set of {height}x{width}x{channels} images",
            pixels.len(),
            labels.map(|l| l.len())
        );
        Ok(Self {
            n,
            height,
            width,
            channels,
            pixels: Pixels::Owned(pixels),
            labels,
            source: None,
            resident: Resident::default(),
        })
    }

    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        ensure!(
            file.dtype("images") != Some(Dtype::F32),
            "{} holds images as floats, and uint8 ones are wanted here; hint: the stage that drew \
             them has the parameter pixels = \"bytes\"",
            path.display()
        );
        let (shape, range) = file.find("images", Dtype::U8, 4)?;
        let [n, height, width, channels] = [shape[0], shape[1], shape[2], shape[3]];
        let mut labels = None;
        if file.has("labels") {
            let (shape, range) = file.find("labels", Dtype::U8, 1)?;
            ensure!(
                shape[0] == n,
                "{}: {n} images, {} labels",
                path.display(),
                shape[0]
            );
            labels = Some(file.bytes(range).to_vec());
        }
        let source = file.about()?;
        Ok(Self {
            n,
            height,
            width,
            channels,
            pixels: Pixels::Mapped(file, range),
            labels,
            source,
            resident: Resident::default(),
        })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let mut entries = vec![Entry {
            name: "images",
            dtype: Dtype::U8,
            shape: vec![self.n, self.height, self.width, self.channels],
            bytes: self.pixels(),
        }];
        if let Some(labels) = &self.labels {
            let shape = vec![self.n];
            entries.push(Entry {
                name: "labels",
                dtype: Dtype::U8,
                shape,
                bytes: labels,
            });
        }
        save(path, &entries, &self.source)
    }

    /// Height, width, channels.
    pub fn shape(&self) -> [usize; 3] {
        [self.height, self.width, self.channels]
    }

    /// Sub-pixels of one image: the D of bits per dimension.
    pub fn dims(&self) -> usize {
        self.height * self.width * self.channels
    }

    pub fn pixels(&self) -> &[u8] {
        match &self.pixels {
            Pixels::Owned(pixels) => pixels,
            Pixels::Mapped(file, range) => file.bytes(range.clone()),
        }
    }

    pub fn image(&self, index: usize) -> &[u8] {
        &self.pixels()[index * self.dims()..(index + 1) * self.dims()]
    }

    /// Copies of the chosen images, in that order.
    pub fn select(&self, indices: impl IntoIterator<Item = usize>) -> Self {
        let mut pixels = Vec::new();
        let mut labels = self.labels.as_ref().map(|_| Vec::new());
        let mut n = 0;
        for index in indices {
            pixels.extend_from_slice(self.image(index));
            if let (Some(to), Some(from)) = (&mut labels, &self.labels) {
                to.push(from[index]);
            }
            n += 1;
        }
        let (height, width, channels) = (self.height, self.width, self.channels);
        Self {
            n,
            height,
            width,
            channels,
            pixels: Pixels::Owned(pixels),
            labels,
            source: self.source.clone(),
            resident: Resident::default(),
        }
    }

    /// Copies with `pad` rows and columns of zeros on each side.
    pub fn padded(&self, pad: usize) -> Self {
        let (height, width) = (self.height + 2 * pad, self.width + 2 * pad);
        let row = self.width * self.channels;
        let mut pixels = vec![0; self.n * height * width * self.channels];
        for (i, from) in self.pixels().chunks_exact(row).enumerate() {
            let (image, y) = (i / self.height, i % self.height);
            let first = ((image * height + y + pad) * width + pad) * self.channels;
            pixels[first..first + row].copy_from_slice(from);
        }
        Self {
            n: self.n,
            height,
            width,
            channels: self.channels,
            pixels: Pixels::Owned(pixels),
            labels: self.labels.clone(),
            source: self.source.clone(),
            resident: Resident::default(),
        }
    }

    /// The chosen images `[b, height, width, channels]` as whole numbers 0 to 255 in `dtype`.
    /// On a GPU they are gathered from the whole set, which is there as bytes.
    pub fn batch(
        &self,
        indices: &[usize],
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if !device.is_cpu() && self.pixels().len() <= RESIDENT {
            let chosen: Vec<u32> = indices.iter().map(|&i| i as u32).collect();
            let chosen = Tensor::from_vec(chosen, indices.len(), device)?;
            return self
                .resident(device)?
                .index_select(&chosen, 0)?
                .to_dtype(dtype);
        }
        let mut bytes = Vec::with_capacity(indices.len() * self.dims());
        for &index in indices {
            bytes.extend_from_slice(self.image(index));
        }
        let shape = (indices.len(), self.height, self.width, self.channels);
        Tensor::from_vec(bytes, shape, device)?.to_dtype(dtype)
    }
}

impl Images {
    /// `[n, height, width, channels]` as bytes on a device, uploaded once.
    fn resident(&self, device: &Device) -> candle_core::Result<&Tensor> {
        if let Some(there) = self.resident.0.get() {
            return Ok(there);
        }
        let shape = (self.n, self.height, self.width, self.channels);
        let pixels = Tensor::from_slice(self.pixels(), shape, device)?;
        Ok(self.resident.0.get_or_init(|| pixels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Images {
        Images::new([1, 2, 1], vec![1, 2, 3, 4, 5, 6], Some(vec![7, 8, 9])).unwrap()
    }

    #[test]
    fn a_saved_set_loads_equal_and_equal_sets_have_equal_bytes() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let named = Images {
            source: Some("three test".into()),
            ..three()
        };
        named.save(&a)?;
        let loaded = Images::load(&a)?;
        assert_eq!((loaded.n, loaded.shape()), (3, [1, 2, 1]));
        assert_eq!(loaded.pixels(), three().pixels());
        assert_eq!(loaded.labels, three().labels);
        assert_eq!(loaded.source.as_deref(), Some("three test"));
        loaded.save(&b)?;
        assert_eq!(std::fs::read(&a)?, std::fs::read(&b)?);
        Ok(())
    }

    #[test]
    fn a_batch_holds_the_chosen_images_in_order() -> Result<()> {
        let batch = three().batch(&[2, 0], DType::F32, &Device::Cpu)?;
        assert_eq!(batch.dims(), [2, 1, 2, 1]);
        assert_eq!(batch.flatten_all()?.to_vec1::<f32>()?, [5., 6., 1., 2.]);
        let chosen = three().select([2, 0]);
        assert_eq!(chosen.pixels(), [5, 6, 1, 2]);
        assert_eq!(chosen.labels, Some(vec![9, 7]));
        Ok(())
    }

    #[test]
    fn padding_is_zeros_on_every_side() -> Result<()> {
        let two = Images::new([1, 2, 2], (1..=8).collect(), Some(vec![3, 4]))?;
        let padded = two.padded(1);
        assert_eq!((padded.n, padded.shape()), (2, [3, 4, 2]));
        let mut expected = [0; 24];
        expected[10..14].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(padded.image(0), expected);
        expected[10..14].copy_from_slice(&[5, 6, 7, 8]);
        assert_eq!(padded.image(1), expected);
        assert_eq!(padded.labels, two.labels);
        Ok(())
    }

    #[test]
    fn a_truncated_file_is_named() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("images.safetensors");
        three().save(&path)?;
        let bytes = std::fs::read(&path)?;
        std::fs::write(&path, &bytes[..bytes.len() - 3])?;
        let error = Images::load(&path).err().unwrap().to_string();
        assert!(
            error.contains("images.safetensors is not a whole safetensors file"),
            "{error}"
        );
        Ok(())
    }
}
