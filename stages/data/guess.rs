//! What a file is that is not what it should be, told by how it begins: a download that answered with a web page, a
//! clone without Git LFS, an archive that nobody unpacked.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What it seems to be, and what to do.
type Guess = (&'static str, &'static str);

/// Bytes at its beginning that tell it.
const ENOUGH: u64 = 512;

const PICTURE: &str = "pictures are compared by the folder they lie in";

/// One sentence that the file at `path` is not `wanted`, with what it seems to be and what to do.
pub fn not(path: &Path, wanted: &str) -> String {
    let name = path.display();
    let mut start = vec![];
    // What cannot be read any more has no start.
    let _ = File::open(path).and_then(|file| file.take(ENOUGH).read_to_end(&mut start));
    match guess(&start) {
        Some((what, hint)) => format!("{name} is {what} and not {wanted}; hint: {hint}"),
        None => format!("{name} is not {wanted}; hint: copy or download it again"),
    }
}

/// As [`not`], where the beginning alone says so; a file that is only damaged is no other thing.
pub fn other(start: &[u8]) -> Option<String> {
    let start = &start[..start.len().min(ENOUGH as usize)];
    guess(start).map(|(what, hint)| format!("it is {what}; hint: {hint}"))
}

fn guess(start: &[u8]) -> Option<Guess> {
    let again = "copy or download it again";
    let unpack = "unpack it, and name what is in it";
    if start.is_empty() {
        return Some(("empty", again));
    }
    let tells: [(&[u8], Guess); 15] = [
        (
            b"version https://git-lfs",
            (
                "a Git LFS pointer",
                "`git lfs pull` fetches the file it stands for",
            ),
        ),
        (b"\x1f\x8b", ("a gzip archive", unpack)),
        (b"\xfd7zXZ", ("an xz archive", unpack)),
        (b"BZh", ("a bzip2 archive", unpack)),
        (b"\x28\xb5\x2f\xfd", ("a zstd archive", unpack)),
        (b"7z\xbc\xaf", ("a 7z archive", unpack)),
        (b"Rar!", ("a rar archive", unpack)),
        (b"PK\x03\x04", ("a zip archive", unpack)),
        (b"\x89HDF", ("an HDF5 file", "it has to be converted")),
        (
            b"\x93NUMPY",
            ("an array of numpy", "its name should end in .npy"),
        ),
        (b"\x89PNG", ("a PNG picture", PICTURE)),
        (b"\xff\xd8\xff", ("a JPEG picture", PICTURE)),
        (b"%PDF", ("a PDF document", again)),
        (b"#!", ("a script", again)),
        (
            b"\x80",
            (
                "a pickle of Python",
                "wanted is what torch.save(net.state_dict(), file) writes",
            ),
        ),
    ];
    // A pickle names its protocol; what else begins with that byte is none.
    let pickle = start.len() > 1 && (2..=5).contains(&start[1]);
    let tell = tells
        .iter()
        .find(|(tell, _)| start.starts_with(tell) && (tell[0] != 0x80 || pickle));
    if let Some((_, guess)) = tell {
        return Some(*guess);
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", unpack));
    }
    // Eight bytes of length, then JSON.
    if start.get(8) == Some(&b'{') && start[4..8] == [0; 4] {
        return Some(("a safetensors file", "its name should end in .safetensors"));
    }
    if start.iter().all(|&byte| byte == 0) {
        return Some(("a file of zeros", again));
    }
    let text = String::from_utf8_lossy(start)
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") || text.starts_with("<head")
    {
        return Some((
            "a web page",
            "a login, a quota or a warning stood before the file; download it in a browser",
        ));
    }
    if text.starts_with("<?xml") || text.starts_with("<error") {
        return Some(("an XML text, perhaps a server's error", again));
    }
    let printable =
        |byte: &u8| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t') || *byte >= 0x80;
    match start.iter().all(printable) && std::str::from_utf8(&start[..start.len().min(200)]).is_ok()
    {
        true => Some(("a text", again)),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_things_are_told_by_how_they_begin() {
        let mut tar = vec![b'a'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (start, what) in [
            (&b"\n<!DOCTYPE html><html>"[..], "a web page"),
            (b"<HTML><head>", "a web page"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "a Git LFS pointer",
            ),
            (&tar, "a tar archive"),
            (b"\x1f\x8b\x08", "a gzip archive"),
            (
                b"<?xml version='1.0'?><Error><Code>AccessDenied",
                "an XML text",
            ),
            (b"404: Not Found", "a text"),
            (b"\x10\0\0\0\0\0\0\0{\"a\":", "a safetensors file"),
            (b"\0\0\0\0", "a file of zeros"),
            (b"", "empty"),
            (b"\x80\x04\x95", "a pickle"),
        ] {
            let found = guess(start).map(|(found, _)| found);
            assert!(
                found.is_some_and(|found| found.starts_with(what)),
                "{found:?} {what}"
            );
        }
        assert_eq!(guess(b"\x80\xff\x00\x01"), None);
        assert_eq!(guess(b"\x01\x02"), None);
    }
}
