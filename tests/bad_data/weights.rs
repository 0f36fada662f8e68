//! Weights of Inception that are damaged, hostile or no numbers, and features of too few images.

use super::files::{Space, below, golden, png, put, safetensors, zip};
use super::{fails, refuses};

/// A pipeline that reads the weights `data/NAME`, whatever their digest.
fn extractor(name: &str, bytes: &[u8]) -> Space {
    let space = Space::new(&format!(
        "[pipeline]\ntitle = \"weights\"\n\n[stage.extractor]\nkind = \"extractor\"\n\
         params.network = {{ kind = \"inception-file\", file = {name:?}, sha256 = \"0\" }}\n"
    ));
    put(&space, &format!("data/{name}"), bytes);
    let said = fails(
        &space,
        &format!("data/{name} has SHA-256 "),
        "pipeline.toml says \"0\"",
    );
    let right = said
        .err
        .split("has SHA-256 ")
        .nth(1)
        .and_then(|t| t.split(',').next());
    space.edit_file(
        "pipeline.toml",
        "sha256 = \"0\"",
        &format!("sha256 = {:?}", right.expect("it is said")),
    );
    space
}

/// The stage of a pipeline and `repro fid` refuse the file alike.
#[track_caller]
fn refused(name: &str, bytes: &[u8], why: &str) {
    let file = format!("data/{name}");
    let space = extractor(name, bytes);
    fails(&space, &file, why);
    put(&space, "a/1.png", &png(8, 8));
    put(&space, "a/2.png", &png(8, 8));
    refuses(&space, &format!("fid a a --weights {file}"), &file, why);
}

#[test]
fn weights_that_are_cut_off() {
    let state = golden("state.pth");
    refused(
        "cut.pth",
        &state[..state.len() / 2],
        "is not a whole .pth file",
    );
    let file = safetensors("Conv2d_1a_3x3.conv.weight", &[32, 3, 3, 3], 1.0);
    let cut = &file[..file.len() - 9];
    refused("cut.safetensors", cut, "is not a whole safetensors file");
}

#[test]
fn a_pickle_that_wants_more_than_tensors() {
    // What an unpickler would carry out: os.system("touch gone").
    let call = b"\x80\x02cos\nsystem\nX\x0a\0\0\0touch gone\x85R.";
    let why = "data.pkl: pickle opcode 0x63 at byte 2: os.system is not a class";
    refused("call.pth", &zip(&[("archive/data.pkl", call)]), why);
    let strange = b"\x80\x02(ios\nsystem\n.";
    let why = "pickle opcode 0x69 at byte 3: it is not needed for tensors";
    refused("strange.pth", &zip(&[("archive/data.pkl", strange)]), why);
}

/// Floats, and numbers that no feature needs, by name.
fn tensors(all: &[(&str, &str, usize)]) -> Vec<u8> {
    let (mut at, mut about) = (0, vec![]);
    for (name, dtype, bytes) in all {
        let count = if *dtype == "F32" { bytes / 4 } else { *bytes };
        let offsets = [at, at + bytes];
        about.push(format!(
            "{name:?}:{{\"dtype\":{dtype:?},\"shape\":[{count}],\"data_offsets\":{offsets:?}}}"
        ));
        at += bytes;
    }
    let header = format!("{{{}}}", about.join(","));
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; at]].concat()
}

#[test]
fn names_of_a_wrapped_network_and_numbers_beside_it() {
    let missing = "there is no tensor Conv2d_1a_3x3.conv.weight";
    for wrapper in ["module.", "_orig_mod.", "module._orig_mod."] {
        let name = format!("{wrapper}Conv2d_2a_3x3.conv.weight");
        let file = tensors(&[(&name, "F32", 16), ("mask", "BOOL", 3), ("steps", "U8", 1)]);
        let why = format!("(read without the `{wrapper}` of its names): {missing}");
        refused("wrapped.safetensors", &file, &why);
    }
    refused(
        "checkpoint.pth",
        &golden("checkpoint.pth"),
        &format!("(its `model`): {missing}"),
    );
    // The old layout, whatever the name.
    for name in ["old.pth", "old.ckpt", "OLD.PTH"] {
        refused(name, &golden("old.pth"), missing);
    }
}

#[test]
fn what_stands_in_the_place_of_weights() {
    let mut tar = vec![0; 1024];
    tar[..5].copy_from_slice(b"a.pth");
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, why) in [
        (
            &b"<!DOCTYPE html>\n<html>Quota exceeded"[..],
            "is a web page and not",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 95628359\n",
            "is a Git LFS pointer and not",
        ),
        (&tar, "is a tar archive and not"),
        (b"\x1f\x8b\x08\0", "is a gzip archive and not"),
        (b"404: Not Found", "is a text and not"),
        (b"", "is empty and not"),
    ] {
        refused("a.pth", bytes, why);
        refused("a.safetensors", bytes, why);
    }
}

#[test]
fn weights_of_another_network_or_without_numbers() {
    let why = "there is no tensor Conv2d_1a_3x3.conv.weight";
    refused("other.pth", &golden("state.pth"), why);
    let name = "Conv2d_1a_3x3.conv.weight";
    let file = safetensors(name, &[32, 3, 3, 3], f32::NAN);
    let why = "tensor Conv2d_1a_3x3.conv.weight holds NaN or infinity";
    refused("nan.safetensors", &file, why);
}

#[test]
fn one_image_has_no_covariance() {
    let space = Space::new(
        r#"
[pipeline]
title = "too few"

[stage.dataset]
kind = "dataset"
params = { valid = 0, train = 10, test = 1, jpeg_quality = 0, pad = 0, source = { kind = "embedded", look = { kind = "grey" } } }

[stage.extractor]
kind = "extractor"
params.network = { kind = "classifier", seed = 0, width = 2, features = 4, epochs = 0, batch = 64, lr = 1e-3 }

[stage.features]
kind = "features"
in.images = "dataset.test"
in.extractor = "extractor.network"
params = { batch = 50, n = 1, seed = 0, resize = "tf-legacy", stretch = "none" }
"#,
    );
    let said = space.repro("run --device cpu").ends(1);
    let why = "test.safetensors: 1 images are too few for a covariance; hint: ";
    let said = said.complains(why);
    let all = below(&space.path("artifacts"));
    let gaussian = all.iter().find(|f| f.ends_with("gaussian.safetensors"));
    assert!(gaussian.is_none(), "{}\n{all:?}", said.err);

    put(&space, "one/1.png", &png(8, 8));
    let network = all.iter().find(|f| f.ends_with("network.safetensors"));
    let network = network.expect("the extractor ran").display();
    let words = format!("fid one one --weights {network}");
    refuses(
        &space,
        &words,
        "one: ",
        "1 images are too few for a covariance",
    );
}
