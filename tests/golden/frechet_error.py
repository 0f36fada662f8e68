#!/usr/bin/env python3
"""The standard errors of a run's Fréchet distances beside a bootstrap, computed anew from its artifacts.

    repro run --profile quick && python tests/golden/frechet_error.py artifacts [TIMES]

Needs numpy and safetensors. For every stage of kind `fid` it reads the two `gaussian` artifacts, draws the
generated images' features again with replacement, and prints the value, the standard error that the stage
claims, the standard deviation over the bootstrap, and their ratio."""

import json
import pathlib
import re
import sys

import numpy as np

STORE = pathlib.Path(sys.argv[1])
TIMES = int(sys.argv[2]) if len(sys.argv) > 2 else 200


def tensors(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        data = raw[8 + length + begin : 8 + length + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
        else:
            values = np.frombuffer(data, "<f8")
        out[name] = values.reshape(entry["shape"])
    return out


def outputs(record):
    text = json.loads(record.read_text())
    return text.get("out") or text["result"]["out"]


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def distance(m1, half, trace1, m2, c2):
    values = np.linalg.eigvalsh(half @ c2 @ half)
    cross = np.sqrt(np.maximum(values, 0)).sum()
    return ((m1 - m2) ** 2).sum() + trace1 + np.trace(c2) - 2 * cross


def main():
    by_digest = {}
    for record in STORE.glob("results/*/record.json"):
        folder = record.parent
        for out in outputs(record):
            if out["file"] == "gaussian.safetensors":
                by_digest[out["digest"]] = folder / out["file"]
    rng = np.random.default_rng(0)
    worst = 0.0
    for record in sorted(STORE.glob("results/*/record.json")):
        folder = record.parent
        manifest = (folder / "manifest.txt").read_text()
        if "kind: fid" not in manifest:
            continue
        digests = {port: re.search(rf"input\.{port}: ([0-9a-f]{{64}})", manifest).group(1) for port in ("real", "fake")}
        real, fake = (tensors(by_digest[digests[port]]) for port in ("real", "fake"))
        metric = json.loads((folder / "metrics.json").read_text())["metrics"][0]
        half, trace1 = root(real["cov"]), np.trace(real["cov"])
        rows = fake["vectors"]
        found = []
        for _ in range(TIMES):
            again = rows[rng.integers(0, len(rows), len(rows))]
            found.append(distance(real["mean"], half, trace1, again.mean(0), np.cov(again, rowvar=False)))
        deviation = np.std(found, ddof=1)
        ratio = metric["std_error"] / deviation
        worst = max(worst, abs(ratio - 1))
        print(f"{metric['value']:9.4f}  claimed {metric['std_error']:.4f}  bootstrap {deviation:.4f}  ratio {ratio:.3f}")
    print(f"furthest from 1: {worst:.3f}")


main()
