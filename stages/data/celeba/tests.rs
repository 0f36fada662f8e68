use contract::testing::Bench;

use super::*;
use crate::dataset::Dataset;
use image::{Rgb, RgbImage};

/// Pictures of 20 by 24 whose upper left square of 8 is red in the strength of their number.
fn folder(dir: &Path, n: usize) -> Result<()> {
    let folder = dir.join("img_align_celeba");
    std::fs::create_dir_all(&folder)?;
    for i in 1..=n {
        let picture = RgbImage::from_fn(20, 24, |x, y| match x < 8 && y < 8 {
            true => Rgb([20 * i as u8, 0, 0]),
            false => Rgb([0, 0, 255]),
        });
        let file = File::create(folder.join(name(i)))?;
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(file, 100);
        picture.write_with_encoder(encoder)?;
    }
    Ok(())
}

fn params(files: usize, test_files: usize) -> Params {
    Params {
        files,
        test_files,
        top: 0,
        left: 0,
        crop: 8,
        size: 4,
    }
}

fn job(dir: &Path) -> Job {
    let mut bench = Bench::new::<Dataset>(&[]);
    bench.spec().data = Some(dir.to_path_buf());
    bench.job(None).0
}

#[test]
fn crop_and_split_follow_the_parameters() -> Result<()> {
    let dir = tempfile::tempdir()?;
    folder(dir.path(), 5)?;
    let splits = load(&params(5, 2), &mut job(dir.path()))?;
    assert_eq!((splits.train.n, splits.test.n), (3, 2));
    assert_eq!(splits.test.shape(), [4, 4, 3]);
    // JPEG blocks are 8x8, so the corner block knows nothing of the blue around it.
    for (image, number) in [(splits.train.image(0), 1), (splits.test.image(1), 5)] {
        assert!(
            image.chunks(3).all(|p| p[0].abs_diff(20 * number) < 6),
            "{image:?}"
        );
    }
    Ok(())
}

#[test]
fn what_is_missing_or_damaged_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    folder(dir.path(), 3)?;
    let error = |p| format!("{:#}", load(&p, &mut job(dir.path())).err().unwrap());
    let text = error(params(4, 1));
    assert!(text.contains("img_align_celeba lacks 000004.jpg"), "{text}");
    let text = error(params(3, 0));
    assert!(
        text.starts_with("the official test partition of CelebA starts at file"),
        "{text}"
    );
    let text = error(Params {
        crop: 21,
        ..params(3, 1)
    });
    assert!(
        text.contains("000001.jpg is 20x24, too small for the square of 21"),
        "{text}"
    );

    let other = dir.path().join("img_align_celeba/000003.jpg");
    let kept = std::fs::read(&other)?;
    let encoder = image::codecs::jpeg::JpegEncoder::new(File::create(&other)?);
    RgbImage::new(20, 25).write_with_encoder(encoder)?;
    let text = error(params(3, 1));
    assert!(text.contains("000003.jpg is 20x25, "), "{text}");
    assert!(text.contains("000001.jpg is 20x24; hint"), "{text}");
    std::fs::write(&other, kept)?;

    let file = dir.path().join("img_align_celeba/000002.jpg");
    let bytes = std::fs::read(&file)?;
    std::fs::write(&file, &bytes[..40])?;
    let text = error(params(3, 1));
    assert!(
        text.contains("000002.jpg is not a picture that can be read"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_list_beside_the_images_must_be_the_official_one() {
    assert!(check_list("000001.jpg 0\n000002.jpg 0\n").is_ok());
    let error = check_list("000001.jpg 0\n000002.jpg 1\n")
        .unwrap_err()
        .to_string();
    let text = r#"line 2 is "000002.jpg 1", the official one is "000002.jpg 0"; hint:"#;
    assert!(error.starts_with(text), "{error}");
    // Copies of other places: line ends of Windows, blank lines, Kaggle's commas, endings of other formats.
    for list in [
        "000001.jpg 0\r\n000002.jpg 0\r\n\r\n",
        "\n000001.jpg 0\n\n000002.jpg\t0\n\n\n",
        "image_id,partition\n000001.jpg,0\n000002.jpg,0\n",
        "\u{feff}000001.png 0\n",
        "",
    ] {
        check_list(list).unwrap();
    }
    let error = check_list("image_id,partition\n\n000001.jpg,2\n")
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("line 3 is \"000001.jpg,2\""), "{error}");
}

#[test]
fn layouts_of_other_places_are_found_and_what_they_hold_counts() -> Result<()> {
    for place in FOLDERS {
        let dir = tempfile::tempdir()?;
        let made = tempfile::tempdir()?;
        folder(made.path(), 3)?;
        let there = dir.path().join("data").join(place);
        std::fs::create_dir_all(there.parent().unwrap())?;
        std::fs::rename(made.path().join("img_align_celeba"), &there)?;
        std::fs::rename(there.join("000002.jpg"), there.join("000002.JPG"))?;
        let data = dir.path().join("data");
        assert!(found(&data).is_some(), "{place}");
        let files = super::data(&params(3, 1), &data);
        assert_eq!(files.len(), 3, "{place}");
        assert!(files.is_sorted());
        let splits = load(&params(3, 1), &mut job(&data))?;
        assert_eq!((splits.train.n, splits.test.n), (2, 1), "{place}");
    }
    // The archive vouches for itself.
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join(ARCHIVE.name), "")?;
    assert!(super::data(&params(3, 1), dir.path()).is_empty());
    Ok(())
}
