//! Pictures that are damaged, missing, or not those that pipeline.toml means.

use super::files::{golden, png, put};
use super::{dataset, fails};

const FACES: &str =
    "{ kind = \"celeba\", files = 3, test_files = 1, top = 4, left = 4, crop = 8, size = 8 }";

fn face(n: usize) -> String {
    format!("data/celeba/img_align_celeba/{n:06}.jpg")
}

#[test]
fn a_corrupt_jpeg() {
    let jpeg = golden("picture.jpg");
    let space = dataset(FACES);
    for n in 1..=3 {
        put(&space, &face(n), &jpeg);
    }
    // Cut off in the header, in the coded pixels, and just before the end.
    for cut in [40, jpeg.len() - 60, jpeg.len() - 2] {
        put(&space, &face(2), &jpeg[..cut]);
        fails(&space, &face(2), "is not a picture that can be read");
    }
    let mut damaged = jpeg.clone();
    damaged[..16].fill(0);
    put(&space, &face(2), &damaged);
    fails(&space, &face(2), "is not a picture that can be read");
    put(&space, &face(2), &jpeg);
    space.repro("run --device cpu --data data").ends(0);
}

#[test]
fn fewer_files_than_listed_and_one_of_another_size() {
    let space = dataset(FACES);
    // The format is told by the content, whatever the name.
    put(&space, &face(1), &png(16, 16));
    put(&space, &face(2), &png(16, 16));
    let why = "lacks 000003.jpg, params.source.files = 3";
    fails(&space, "data/celeba/img_align_celeba", why);
    put(&space, &face(3), &png(16, 17));
    fails(&space, &face(3), "000003.jpg is 16x17, ");
    put(&space, &face(3), &png(16, 16));
    let list = "data/celeba/list_eval_partition.txt";
    put(&space, list, b"000001.jpg 0\n000002.jpg 2\n");
    fails(&space, list, "line 2 is \"000002.jpg 2\"");
    std::fs::remove_file(space.path(list)).expect("there");
    space.repro("run --device cpu --data data").ends(0);
}

#[test]
fn pictures_that_pipeline_toml_does_not_mean() {
    let space = dataset(
        "{ kind = \"image-folder\", folder = \"mine\", digest = \"0\", size = 8, channels = 3, \
         test = 1, seed = 0 }",
    );
    put(&space, "data/mine/a.png", &png(8, 8));
    put(&space, "data/mine/b.png", &png(9, 8));
    let said = fails(&space, "data/mine has digest ", "pipeline.toml says");
    let right = said
        .err
        .split("has digest ")
        .nth(1)
        .and_then(|t| t.split(',').next());
    space.edit_file(
        "pipeline.toml",
        "digest = \"0\"",
        &format!("digest = {:?}", right.expect("it is said")),
    );
    space.repro("run --device cpu --data data").ends(0);
}

/// A pipeline of the faces, and what it says of the folder `name` of data.
#[test]
fn other_pictures_make_a_data_set_stale_and_the_same_in_another_folder_do_not() {
    let space = dataset(FACES);
    let faces = |folder: &str, side: u32| {
        for n in 1..=3 {
            put(
                &space,
                &format!("{folder}/img_align_celeba/{n:06}.jpg"),
                &png(side, side),
            );
        }
    };
    for (folder, side) in [("one", 16), ("same", 16), ("other", 18)] {
        faces(folder, side);
    }
    let run = |folder: &str| {
        space
            .repro(&format!("run --device cpu --data {folder}"))
            .ends(0)
    };
    let ran = "1 stage ran";
    run("one").complains(ran);
    run("one").complains("nothing to do");
    run("same").complains("nothing to do");
    // Without a folder what was last read is taken to be as it was.
    space
        .repro("run --device cpu")
        .ends(0)
        .complains("nothing to do");
    space.repro("--device cpu status").ends(0).says("fresh");
    run("other").complains(ran);
    space
        .repro("run --device cpu")
        .ends(0)
        .complains("nothing to do");
    run("one").complains("nothing to do");
    // Replaced in place, one of them, at the same size.
    let mut face = png(16, 16);
    face.extend(b"more");
    put(&space, "one/img_align_celeba/000003.jpg", &face);
    run("one").complains(ran);
}

#[test]
fn a_folder_of_data_that_is_not_there_or_holds_nothing_wanted_is_said_first() {
    let space = dataset("{ kind = \"cifar10\" }");
    fails(&space, "data: there is no such folder", "--data ");
}
