//! Kind `grid`: the first images of a set side by side (Figures 2 and 3).

use anyhow::{Result, ensure};
use contract::{Input, Job, Output, Stage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::any_images::AnyImages;
use crate::data::grid::Layout;

pub struct Grid;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    layout: Layout,
}

impl Stage for Grid {
    const KIND: &'static str = "grid";
    const ABOUT: &'static str = "Draws the first images of a set side by side.";
    const INPUTS: &'static [Input] = &[Input::one("images", "images")];
    const OUTPUTS: &'static [Output] = &[Output::new("picture", "figure", "grid.png")];
    type Params = Params;

    fn run(params: &Params, job: &mut Job) -> Result<()> {
        let path = job.input("images")?;
        let images = AnyImages::load(path)?;
        let n = params.layout.cells();
        ensure!(
            n <= images.n(),
            "{} holds {} images, the picture has room for {n}",
            path.display(),
            images.n()
        );
        let first: Vec<u8> = (0..n).flat_map(|i| images.bytes(i)).collect();
        params
            .layout
            .save(&first, images.shape(), job.output("picture")?)
    }
}
