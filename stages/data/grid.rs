//! Pictures of pictures: images side by side as a PNG.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{Rgb, RgbImage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How images are laid out.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    pub rows: usize,
    pub columns: usize,
    /// Each pixel becomes a square of this side.
    pub scale: usize,
    /// White between images, in pixels of the picture.
    pub gap: usize,
    /// Columns at the left that a wider gap sets apart; 0: none.
    pub apart: usize,
}

impl Layout {
    pub fn cells(&self) -> usize {
        self.rows * self.columns
    }

    /// Writes images of `shape` (height, width, channels), row by row and laid end to end. Equal
    /// images give equal bytes.
    pub fn save(&self, images: &[u8], shape: [usize; 3], path: &Path) -> Result<()> {
        let [height, width, channels] = shape;
        ensure!(
            self.scale > 0 && self.cells() > 0 && self.apart < self.columns,
            "a picture of {}x{} images, {} apart, at scale {}",
            self.rows,
            self.columns,
            self.apart,
            self.scale
        );
        ensure!(
            images.len() == self.cells() * height * width * channels,
            "BUG: {} bytes for {} images of {shape:?}",
            images.len(),
            self.cells()
        );
        let wide = |column: usize| {
            let extra = if self.apart > 0 && column >= self.apart {
                3 * self.gap
            } else {
                0
            };
            column * (width * self.scale + self.gap) + extra
        };
        let high = |row: usize| row * (height * self.scale + self.gap);
        let size = [wide(self.columns) - self.gap, high(self.rows) - self.gap];
        let mut picture = RgbImage::from_pixel(size[0] as u32, size[1] as u32, Rgb([255; 3]));
        let pixels = images.chunks_exact(channels).enumerate();
        for (i, pixel) in pixels {
            let (cell, place) = (i / (height * width), i % (height * width));
            let left = wide(cell % self.columns) + place % width * self.scale;
            let top = high(cell / self.columns) + place / width * self.scale;
            let colour = Rgb(std::array::from_fn(|c| pixel[c.min(channels - 1)]));
            for y in top..top + self.scale {
                for x in left..left + self.scale {
                    picture.put_pixel(x as u32, y as u32, colour);
                }
            }
        }
        picture
            .save_with_format(path, image::ImageFormat::Png)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_where_they_should() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("grid.png");
        let layout = Layout {
            rows: 1,
            columns: 3,
            scale: 2,
            gap: 1,
            apart: 1,
        };
        layout.save(&[10, 20, 30], [1, 1, 1], &path)?;
        let picture = image::open(&path)?.into_rgb8();
        assert_eq!(picture.dimensions(), (2 + 1 + 3 + 2 + 1 + 2, 2));
        let row: Vec<u8> = (0..11).map(|x| picture.get_pixel(x, 1)[0]).collect();
        assert_eq!(row, [10, 10, 255, 255, 255, 255, 20, 20, 255, 30, 30]);
        Ok(())
    }
}
