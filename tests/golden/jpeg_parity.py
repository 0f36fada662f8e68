"""What `repro` and Pillow make of JPEG files.

    pip install numpy pillow
    python3 jpeg_parity.py decode REPRO FOLDER FILES [SIDE SIZE]
    python3 jpeg_parity.py round-trip REPRO DATA [QUALITY]

`decode`: FOLDER holds 000001.jpg and so on, all of one size; FILES of them are compared. A square of
SIDE pixels (by default the largest) is cut from the upper left corner and resized to SIZE, antialiased
bilinear (by default not at all).

`round-trip`: DATA holds CIFAR-10. Its test images are written as JPEG files of QUALITY (by default 75,
Pillow's own) and read back, by `jpeg_quality` of kind `dataset` and by Pillow.

Both print the largest difference between pixels, how many differ, and the mean of each colour's: a shift.
"""
import io
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
from PIL import Image

PIPELINE = """
[pipeline]
title = "jpeg"
[stage.data]
kind = "dataset"
params = {{ valid = 0, train = 0, test = 0, jpeg_quality = {quality}, pad = 0, source = {source} }}
"""


def dataset(repro, data, source, quality=0):
    """Train and test images as `repro` has them; `data` is the folder for --data."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "pipeline.toml").write_text(PIPELINE.format(quality=quality, source=source))
        command = [pathlib.Path(repro).resolve(), "run", "--device", "cpu", "--data", data]
        subprocess.run(command, cwd=scratch, check=True)
        train = next(scratch.glob("artifacts/results/*/train.safetensors"))
        return tensor(train, "images"), tensor(train.with_name("test.safetensors"), "images")


def tensor(path, name):
    file = path.read_bytes()
    start = 8 + int.from_bytes(file[:8], "little")
    about = json.loads(file[8:start])[name]
    first, end = about["data_offsets"]
    return numpy.frombuffer(file[start + first : start + end], numpy.uint8).reshape(about["shape"])


def compare(what, ours, theirs):
    signed = ours.astype(int) - numpy.stack(theirs).astype(int)
    gap = numpy.abs(signed)
    print(
        f"{what}: largest difference {gap.max()}, mean {gap.mean():.2g}, "
        f"differing {100 * (gap > 0).mean():.3g} %, by more than 1 {100 * (gap > 1).mean():.3g} %"
    )
    print("    signed means of red, green, blue:", *(f"{v:+.3f}" for v in signed.mean((0, 1, 2))))


def decode(repro, folder, files, side=None, size=None):
    folder, files = pathlib.Path(folder).resolve(), int(files)
    names = [folder / f"{i:06}.jpg" for i in range(1, files + 1)]
    side = int(side or min(Image.open(names[0]).size))
    size = int(size or side)
    source = f'{{ kind = "celeba", files = {files}, test_files = 1, top = 0, left = 0, crop = {side}, size = {size} }}'
    with tempfile.TemporaryDirectory() as data:
        (pathlib.Path(data) / "img_align_celeba").symlink_to(folder)
        ours = dataset(repro, data, source)
    theirs = []
    for name in names:
        square = Image.open(name).convert("RGB").crop((0, 0, side, side))
        if size != side:
            square = square.resize((size, size), Image.BILINEAR)
        theirs.append(numpy.asarray(square))
    compare(f"{files} files, {side} to {size}", numpy.concatenate(ours), theirs)


def round_trip(repro, data, quality=75):
    source = '{ kind = "cifar10" }'
    data = pathlib.Path(data).resolve()
    _, published = dataset(repro, data, source)
    _, ours = dataset(repro, data, source, quality)
    theirs = []
    for image in published:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality))
        theirs.append(numpy.asarray(Image.open(file)))
    compare(f"{len(published)} images, quality {quality}", ours, theirs)
    compare("Pillow's against those published", published, theirs)


if __name__ == "__main__":
    ways = {"decode": decode, "round-trip": round_trip}
    if len(sys.argv) < 4 or sys.argv[1] not in ways:
        sys.exit(__doc__)
    ways[sys.argv[1]](*sys.argv[2:])
