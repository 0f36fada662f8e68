"""Kernel distance, precision and recall of two small sets, from their definitions alone.

    pip install numpy
    python3 set_metrics.py > set_metrics.json

Sums over pairs in plain Python: the unbiased estimate of the squared maximum mean discrepancy under
k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018), and precision and recall with balls that reach to the
third nearest neighbour (Kynkaanniemi et al. 2019).
"""
import json
import math

import numpy

D, REAL, FAKE, K = 6, 40, 30, 3


def kernel(a, b):
    return (sum(x * y for x, y in zip(a, b)) / D + 1) ** 3


def mean(values):
    return math.fsum(values) / len(values)


def discrepancy(xs, ys):
    def within(zs):
        return mean([kernel(a, b) for i, a in enumerate(zs) for j, b in enumerate(zs) if i != j])

    return within(xs) + within(ys) - 2 * mean([kernel(x, y) for x in xs for y in ys])


def share_within(points, others):
    def radius(i):
        return sorted(math.dist(others[i], o) for j, o in enumerate(others) if j != i)[K - 1]

    radii = [radius(i) for i in range(len(others))]
    return mean([float(any(math.dist(p, o) <= r for o, r in zip(others, radii))) for p in points])


random = numpy.random.default_rng(4)
# Multiples of 1/64 are the same in every precision. The fakes are narrower and off the middle.
real = numpy.round(random.normal(size=(REAL, D)) * 64) / 64
fake = numpy.round((random.normal(size=(FAKE, D)) * 0.8 + 0.6) * 64) / 64
real, fake = real.tolist(), fake.tolist()
print(
    json.dumps(
        {
            "d": D,
            "real": sum(real, []),
            "fake": sum(fake, []),
            "discrepancy": discrepancy(real, fake),
            "precision": share_within(fake, real),
            "recall": share_within(real, fake),
        }
    )
)
