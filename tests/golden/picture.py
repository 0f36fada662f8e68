"""Writes picture.jpg, 16x16 pixels of a gradient. Needs numpy and pillow."""
import pathlib

import numpy
from PIL import Image

y, x = numpy.mgrid[:16, :16] * 16
pixels = numpy.stack([x, y, (x + y) // 2], -1).astype(numpy.uint8)
Image.fromarray(pixels).save(pathlib.Path(__file__).with_name("picture.jpg"), quality=90)
