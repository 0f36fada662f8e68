"""Polynomials in Chebyshev's basis: what every program here shares."""

import json
import math


def basis(x, degree):
    """T_0(x) to T_degree(x), for x in [-1, 1]."""
    values = [1.0, x]
    while len(values) <= degree:
        values.append(2 * x * values[-1] - values[-2])
    return values[: degree + 1]


def predict(weights, x):
    return sum(w * t for w, t in zip(weights, basis(x, len(weights) - 1)))


def rmse(weights, points):
    return math.sqrt(sum((predict(weights, x) - y) ** 2 for x, y in points) / len(points))


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)
