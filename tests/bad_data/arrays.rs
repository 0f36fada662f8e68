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
    let itself = space.repro("fid a.npz a.npz").ends(0);
    assert_eq!(
        itself.out,
        "Fréchet distance (statistics without a protocol): 0\n"
    );
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

/// The distance of two sets of statistics as JSON has it.
#[track_caller]
fn distance(space: &Space, words: &str) -> f64 {
    let said = space.repro(&format!("fid {words} --json")).ends(0);
    let value = said.out.split("\"value\": ").nth(1).expect("a value");
    let end = value.find([',', '\n']).unwrap_or(value.len());
    value[..end].parse().expect("a number")
}

#[test]
fn a_covariance_that_is_none() {
    let space = space();
    put(&space, "a.npz", &statistics([0.0; 3], COV, false));
    let negative = COV.map(|v| -v);
    put(
        &space,
        "negative.npz",
        &statistics([0.0; 3], negative, false),
    );
    refuses(
        &space,
        "fid a.npz negative.npz",
        "negative.npz",
        "none is negative",
    );
    // One direction alone, which no diagonal shows.
    let mut indefinite = COV;
    (indefinite[1], indefinite[3]) = (3.0, 3.0);
    put(
        &space,
        "indefinite.npz",
        &statistics([0.0; 3], indefinite, false),
    );
    refuses(
        &space,
        "fid indefinite.npz a.npz",
        "indefinite.npz",
        "none is negative",
    );
    let mut root = COV;
    (root[3], root[6], root[7]) = (0.0, 0.0, 0.0);
    put(&space, "root.npz", &statistics([0.0; 3], root, false));
    refuses(
        &space,
        "fid a.npz root.npz",
        "root.npz",
        "it is not symmetric",
    );
    // Singular ones are what few images give.
    put(&space, "flat.npz", &statistics([0.0; 3], [1.0; 9], false));
    assert!(distance(&space, "a.npz flat.npz") > 0.0);
}

#[test]
fn statistics_of_other_names_and_types_with_anything_beside_them() {
    let space = space();
    put(&space, "a.npz", &statistics([0.0; 3], COV, false));
    let halves = |values: &[f64]| -> Vec<u8> {
        // 3, 4 and the entries of COV are whole sixteenths, which float16 holds.
        let half = |v: &f64| match *v {
            0.0 => 0u16,
            v => {
                let exponent = v.log2().floor();
                (((exponent as i32 + 15) as u16) << 10)
                    + ((v / exponent.exp2() - 1.0) * 1024.0) as u16
            }
        };
        values.iter().map(half).flat_map(u16::to_le_bytes).collect()
    };
    let mean = [3.0, 0.0, 4.0];
    let whole = (
        npy("<f8", false, "(3,)", &doubles(&mean)),
        npy("<f8", false, "(3, 3)", &doubles(&COV)),
    );
    let half = (
        npy("<f2", false, "(3,)", &halves(&mean)),
        npy("<f2", false, "(3, 3)", &halves(&COV)),
    );
    let beside: [(&str, &[u8]); 3] = [
        ("labels.npy", &npy("<i8", false, "(2,)", &[0; 16])),
        ("dataset.npy", &npy("<U6", false, "()", &[0; 24])),
        ("info.npy", &npy("|O", false, "()", b"\x80\x04}.")),
    ];
    for (names, (mu, sigma)) in [
        (["mu.npy", "sigma.npy"], &whole),
        (["mean.npy", "cov.npy"], &whole),
        (["mu.npy", "sigma.npy"], &half),
    ] {
        let mut members = vec![(names[0], &mu[..]), (names[1], &sigma[..])];
        members.extend(beside);
        put(&space, "b.npz", &zip(&members));
        assert!((distance(&space, "a.npz b.npz") - 25.0).abs() < 1e-9);
    }
    // Told by content, whatever the name says.
    put(&space, "B.NPZ", &statistics(mean, COV, false));
    put(&space, "b.stats", &statistics(mean, COV, false));
    assert!((distance(&space, "a.npz B.NPZ") - 25.0).abs() < 1e-9);
    assert!((distance(&space, "a.npz b.stats") - 25.0).abs() < 1e-9);
    let other = zip(&[
        ("pool_3.npy", &npy("<f4", false, "(2, 3)", &[0; 24])),
        ("y.npy", beside[0].1),
    ]);
    put(&space, "other.npz", &other);
    let why = "but pool_3 float32 [2, 3], y int64 [2]";
    refuses(
        &space,
        "fid a.npz other.npz",
        "other.npz holds neither statistics",
        why,
    );
}

#[test]
fn a_pickled_dict_of_statistics_is_read_and_never_run() {
    let space = space();
    put(&space, "a.npz", &statistics([0.0; 3], COV, false));
    for name in [
        "statistics.npy",
        "statistics_old.npy",
        "statistics_new.npy",
        "statistics_inside.npz",
    ] {
        put(&space, name, &golden(name));
        assert!((distance(&space, &format!("a.npz {name}")) - 25.0).abs() < 1e-9);
        let said = space.repro(&format!("fid a.npz {name}")).ends(0);
        said.complains("arrays of a pickled dict, read without running it");
    }
    let call = npy(
        "|O",
        false,
        "()",
        b"\x80\x02cos\nsystem\nX\x0a\0\0\0touch gone\x85R.",
    );
    put(&space, "call.npy", &call);
    refuses(
        &space,
        "fid a.npz call.npy",
        "call.npy",
        "os.system is not a class",
    );
    put(&space, "list.npy", b"\x80\x04]\x94.");
    refuses(
        &space,
        "fid a.npz list.npy",
        "list.npy",
        "a pickle of Python with a list",
    );
}

#[test]
fn what_stands_in_the_place_of_an_array() {
    let space = space();
    put(&space, "a.npz", &statistics([0.0; 3], COV, false));
    for (text, why) in [
        (&b"<!DOCTYPE html><html>sign in"[..], "it is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "it is a Git LFS pointer",
        ),
        (b"", "it is empty"),
    ] {
        for name in ["b.npz", "b.npy", "b.safetensors"] {
            put(&space, name, text);
            refuses(&space, &format!("fid a.npz {name}"), name, why);
        }
    }
}

#[test]
fn images_beside_their_labels() {
    let space = space();
    let images = npy(
        "|u1",
        false,
        "(20, 8, 8, 3)",
        &(0..3840).map(|i| (i * 7 % 256) as u8).collect::<Vec<_>>(),
    );
    let labels = npy("<i8", false, "(20,)", &[1; 160]);
    put(
        &space,
        "adm.npz",
        &zip(&[("arr_0.npy", &images), ("arr_1.npy", &labels)]),
    );
    // They are images: what is missing is a network.
    let said = space
        .repro("fid adm.npz adm.npz --weights nowhere.pth")
        .ends(1);
    said.complains("cannot open nowhere.pth");
    put(
        &space,
        "two.npz",
        &zip(&[("real.npy", &images), ("fake.npy", &images)]),
    );
    refuses(
        &space,
        "fid two.npz adm.npz",
        "two.npz",
        "2 arrays of images, real and fake",
    );
    put(
        &space,
        "first.npy",
        &npy("|u1", false, "(2, 3, 4, 4)", &[9; 96]),
    );
    refuses(
        &space,
        "fid first.npy adm.npz",
        "first.npy",
        "channels first",
    );
}
