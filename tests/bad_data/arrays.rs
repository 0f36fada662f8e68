//! Arrays and statistics of numpy, in either order, and broken ones.

use super::files::{Space, golden, npy, put, zip};
use super::refuses;

fn space() -> Space {
    Space::new("[pipeline]\ntitle = \"arrays\"\n")
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Statistics of three features.
fn statistics(mean: [f64; 3], cov: [f64; 9], fortran: bool) -> Vec<u8> {
    let mu = npy("<f8", false, "(3,)", &doubles(&mean));
    let sigma = npy("<f8", fortran, "(3, 3)", &doubles(&cov));
    zip(&[("mu.npy", &mu), ("sigma.npy", &sigma)])
}

const COV: [f64; 9] = [2.0, 0.5, 0.0, 0.5, 1.0, 0.25, 0.0, 0.25, 3.0];

#[test]
fn statistics_in_either_order() {
    let space = space();
    put(&space, "a.npz", &statistics([0.0; 3], COV, false));
    put(&space, "b.npz", &statistics([3.0, 0.0, 4.0], COV, true));
    let said = space.repro("fid a.npz b.npz --json").ends(0);
    let value = said.out.split("\"value\": ").nth(1).expect("a value");
    let value: f64 = value
        .split([',', '\n'])
        .next()
        .and_then(|v| v.parse().ok())
        .expect("a number");
    assert!((value - 25.0).abs() < 1e-9, "{value}");
}

#[test]
fn statistics_that_are_none() {
    let space = space();
    put(&space, "a.npz", &statistics([0.0; 3], COV, false));
    put(
        &space,
        "nan.npz",
        &statistics([0.0, f64::NAN, 0.0], COV, false),
    );
    refuses(
        &space,
        "fid a.npz nan.npz",
        "nan.npz",
        "holds NaN or infinity",
    );
    let whole = statistics([0.0; 3], COV, false);
    put(&space, "cut.npz", &whole[..whole.len() / 2]);
    refuses(&space, "fid a.npz cut.npz", "cut.npz", "could not be read");
    let mu = npy("<f8", false, "(2,)", &doubles(&[0.0; 2]));
    let sigma = npy("<f8", false, "(3, 3)", &doubles(&COV));
    let unlike = zip(&[("mu.npy", &mu), ("sigma.npy", &sigma)]);
    put(&space, "unlike.npz", &unlike);
    let why = "mu is [2] and sigma [3, 3]";
    refuses(&space, "fid a.npz unlike.npz", "unlike.npz", why);
}

#[test]
fn images_that_are_none() {
    let space = space();
    let images = npy("|u1", false, "(2, 4, 4, 3)", &[9; 96]);
    put(&space, "cut.npy", &images[..images.len() - 1]);
    let why = "it ends after 95 of 96 bytes";
    refuses(&space, "fid cut.npy cut.npy", "cut.npy", why);
    put(
        &space,
        "wide.npy",
        &npy("<i8", false, "(2, 4, 4, 3)", &[0; 768]),
    );
    refuses(
        &space,
        "fid wide.npy wide.npy",
        "wide.npy",
        "it holds numpy's \"<i8\"",
    );
    put(&space, "flat.npy", &npy("|u1", false, "(2, 48)", &[9; 96]));
    let why = "hint: uint8 images of [n, height, width, 1 or 3] are read";
    refuses(&space, "fid flat.npy flat.npy", "flat.npy", why);
    put(&space, "a.npy", &golden("picture.jpg"));
    refuses(
        &space,
        "fid a.npy a.npy",
        "a.npy",
        "it is not an array of numpy",
    );
}
