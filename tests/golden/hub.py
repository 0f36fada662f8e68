#!/usr/bin/env python3
"""Two sets of a few pictures each, as the Hugging Face Hub keeps CIFAR-10 and Fashion-MNIST
(`refs/convert/parquet`), and the digests by which `repro` knows them: made without its code.

    pip install blake3==1.0.11 numpy==2.4.6 pillow==13.0.0 pyarrow==26.0.1
    python3 tests/golden/hub.py tests/golden/hub

With `--real FOLDER` also the whole sets, from official files below FOLDER (`cifar-10-batches-bin`,
`fashion-mnist`), for a look by hand: `--real ~/data` needs 150 MB in the folder that is written."""

import gzip
import io
import json
import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3
from PIL import Image

SETS = {
    "cifar10": ("img", "plain_text", (32, 32, 3)),
    "fashion-mnist": ("image", "fashion_mnist", (28, 28, 1)),
}


def content(images, labels):
    """The sum of the first halves of BLAKE3 digests, each of a label and the planes of its picture."""
    total = 0
    for image, label in zip(images, labels):
        record = bytes([label]) + image.transpose(2, 0, 1).tobytes()
        total += int.from_bytes(blake3(record).digest()[:16], "big")
    return f"{total % 2**128:032x}"


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def write(path, column, images, labels):
    pictures = [{"bytes": png(image), "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(pictures, kind), "label": pa.array(labels, pa.int64())})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def drawn(shape):
    random = np.random.default_rng(7)
    for split, n in ("train", 5), ("test", 3):
        yield split, random.integers(0, 256, (n, *shape), np.uint8), random.integers(0, 10, n).tolist()


def official(name, folder):
    if name == "cifar10":
        for split, files in ("train", [f"data_batch_{i}.bin" for i in range(1, 6)]), ("test", ["test_batch.bin"]):
            bytes_ = b"".join((folder / "cifar-10-batches-bin" / file).read_bytes() for file in files)
            records = np.frombuffer(bytes_, np.uint8).reshape(-1, 3073)
            yield split, records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0].tolist()
    else:
        for split, prefix in ("train", "train"), ("test", "t10k"):
            def read(kind, skip):
                path = folder / "fashion-mnist" / f"{prefix}-{kind}-ubyte"
                bytes_ = path.read_bytes() if path.exists() else gzip.open(f"{path}.gz").read()
                return np.frombuffer(bytes_, np.uint8)[skip:]
            yield split, read("images-idx3", 16).reshape(-1, 28, 28, 1), read("labels-idx1", 8).tolist()


def main(out, real=None):
    digests = {}
    for name, (column, config, shape) in SETS.items():
        for split, images, labels in official(name, real) if real else drawn(shape):
            write(out / name / config / split / "0000.parquet", column, images, labels)
            digests[f"{name} {split}"] = content(images, labels)
    (out / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    real = pathlib.Path(arguments.pop(arguments.index("--real") + 1)) if "--real" in arguments else None
    main(pathlib.Path(arguments[-1] if real is None else [a for a in arguments if a != "--real"][-1]), real)
