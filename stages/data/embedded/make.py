#!/usr/bin/env python3
"""Make the embedded images from the official Fashion-MNIST files.

    python3 make.py FOLDER      the folder with the four IDX files, gzipped or not

Takes the first 600 training and 100 test images of each class, in file order, and writes
{train,test}.png (an atlas: 50 images a row) and {train,test}.labels (a byte each) beside this
script. Needs numpy and pillow.
"""
import gzip
import hashlib
import pathlib
import sys

import numpy
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
COLUMNS = 50
SPLITS = {"train": ("train", 600), "test": ("t10k", 100)}
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read(folder, name):
    plain, packed = folder / name, folder / f"{name}.gz"
    data = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        sys.exit(f"{folder / name} is not the official file")
    return numpy.frombuffer(data, numpy.uint8)


def main(folder):
    for split, (prefix, per_class) in SPLITS.items():
        images = read(folder, f"{prefix}-images-idx3-ubyte")[16:].reshape(-1, 28, 28)
        labels = read(folder, f"{prefix}-labels-idx1-ubyte")[8:]
        chosen = numpy.sort(
            numpy.concatenate([numpy.flatnonzero(labels == c)[:per_class] for c in range(10)])
        )
        rows = len(chosen) // COLUMNS
        atlas = images[chosen].reshape(rows, COLUMNS, 28, 28).transpose(0, 2, 1, 3)
        Image.fromarray(atlas.reshape(rows * 28, COLUMNS * 28)).save(
            HERE / f"{split}.png", optimize=True
        )
        labels[chosen].tofile(HERE / f"{split}.labels")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
