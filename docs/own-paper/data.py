"""Noisy points of a sine, a few to train on and many to test on."""

import math
import random
import sys

from curves import read, write

params_file, points_file = sys.argv[1:]
params = read(params_file)
noise = random.Random(params["seed"])


def points(n):
    xs = [noise.uniform(-1, 1) for _ in range(n)]
    return [(x, math.sin(3 * x) + noise.gauss(0, params["noise"])) for x in xs]


write(points_file, {"train": points(params["train"]), "test": points(params["test"])})
