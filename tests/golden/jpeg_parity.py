"""JPEG files decoded, cropped and resized by `repro` and by Pillow.

    pip install numpy pillow
    python3 jpeg_parity.py REPRO FOLDER FILES [SIDE SIZE]

FOLDER holds 000001.jpg and so on, all of one size; FILES of them are compared. A square of SIDE pixels
(by default the largest) is cut from the upper left corner and resized to SIZE, antialiased bilinear (by
default not at all). Prints the largest difference between pixels, and how many differ.
"""
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
[stage.faces]
kind = "dataset"
params = {{ valid = 0, train = 0, test = 0, source = {{ kind = "celeba", files = {files}, \
test_files = 1, top = 0, left = 0, crop = {side}, size = {size} }} }}
"""


def tensor(path, name):
    file = path.read_bytes()
    start = 8 + int.from_bytes(file[:8], "little")
    about = json.loads(file[8:start])[name]
    first, end = about["data_offsets"]
    return numpy.frombuffer(file[start + first : start + end], numpy.uint8).reshape(about["shape"])


def main(repro, folder, files, side=None, size=None):
    folder, files = pathlib.Path(folder).resolve(), int(files)
    names = [folder / f"{i:06}.jpg" for i in range(1, files + 1)]
    side = int(side or min(Image.open(names[0]).size))
    size = int(size or side)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "pipeline.toml").write_text(PIPELINE.format(files=files, side=side, size=size))
        (scratch / "data").mkdir()
        (scratch / "data" / "img_align_celeba").symlink_to(folder)
        command = [pathlib.Path(repro).resolve(), "run", "--device", "cpu", "--data", "data"]
        subprocess.run(command, cwd=scratch, check=True)
        made = next(scratch.glob("artifacts/results/*/train.safetensors"))
        ours = numpy.concatenate([tensor(made.with_name(f"{s}.safetensors"), "images") for s in ("train", "test")])
    theirs = []
    for name in names:
        square = Image.open(name).convert("RGB").crop((0, 0, side, side))
        if size != side:
            square = square.resize((size, size), Image.BILINEAR)
        theirs.append(numpy.asarray(square))
    gap = numpy.abs(ours.astype(int) - numpy.stack(theirs).astype(int))
    print(
        f"{files} files, {side} to {size}: largest difference {gap.max()}, mean {gap.mean():.2g}, "
        f"differing {100 * (gap > 0).mean():.3g} %, by more than 1 {100 * (gap > 1).mean():.3g} %"
    )


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
