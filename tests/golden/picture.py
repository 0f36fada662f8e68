"""Writes picture.jpg, 16x16 pixels of a gradient, and round_trip.json, what Pillow makes of two images
written as JPEG files and read back. Needs numpy and pillow."""
import io
import json
import pathlib

import numpy
from PIL import Image

HERE = pathlib.Path(__file__).parent

y, x = numpy.mgrid[:16, :16] * 16
pixels = numpy.stack([x, y, (x + y) // 2], -1).astype(numpy.uint8)
Image.fromarray(pixels).save(HERE / "picture.jpg", quality=90)


def round_trip(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return numpy.asarray(Image.open(file)).flatten().tolist()


y, x, c = numpy.mgrid[:16, :16, :3]
colour = (37 * x + 91 * y + 53 * c + 7 * x * y).astype(numpy.uint8)
images = {"grey": colour[..., 0], "colour": colour}
qualities = 75, 95
found = {name: {q: round_trip(image, q) for q in qualities} for name, image in images.items()}
(HERE / "round_trip.json").write_text(json.dumps(found) + "\n")
