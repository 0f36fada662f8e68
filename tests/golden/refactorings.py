#!/usr/bin/env python3
"""Ten changes of this repository's history that moved, split or added modules and left the results of a kind as
they were: which modules the kind's code had before and after, by today's build.rs. Writes refactorings.json, with which
a test of src/plan replays them: the result becomes stale, `repro accept` blesses it, it is fresh.

    python tests/golden/refactorings.py        # in a full clone; wants cargo
"""

import json
import os
import subprocess
import tempfile

# Commits that left all numbers on a CPU as they were.
CHANGES = [
    "0b04b67",  # one idea a file
    "b21e42d",  # the training loop's parts in files of their own
    "c403dd2",  # operations for GPUs, which a CPU does not use
    "468ecbf",  # the coupling network as one kernel for GPUs
    "a9253a1",  # resizing on a GPU
    "a99ec77",  # a coupling's parameters in one launch
    "5ca59cf",  # kernels in files by direction
    "8634598",  # downloads from mirrors
    "dafa8a4",  # the contract becomes a crate
    "68ee52a",  # one shape for trainings
]
# Of these the first whose modules changed is replayed.
KINDS = ["vae", "glow", "features", "fid", "prior", "flow_layer", "extractor", "dataset", "timing"]

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")


def modules(commit):
    with tempfile.TemporaryDirectory() as tree:
        for folder in ["stages", "contract", "tests"]:
            os.makedirs(f"{tree}/{folder}")
            archive = subprocess.run(["git", "archive", commit, folder], cwd=ROOT, capture_output=True)
            if archive.returncode == 0:
                subprocess.run(["tar", "x", "-C", tree], input=archive.stdout, check=True)
        told = subprocess.run(
            ["cargo", "test", "-q", "--release", "-p", "stages", "--test", "digests", "another_tree", "--", "--nocapture"],
            cwd=ROOT, env={**os.environ, "REPRO_TREE": tree}, capture_output=True, text=True, check=True)
    kinds = {}
    for line in told.stdout.splitlines():
        row = line.split()
        if len(row) == 3 and len(row[2]) == 32:
            kinds.setdefault(row[0], {})[row[1]] = row[2]
    return kinds


all_changes = []
for commit in CHANGES:
    subject = subprocess.run(["git", "log", "-1", "--format=%s", commit], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    was, is_ = modules(commit + "~"), modules(commit)
    both = [kind for kind in KINDS if kind in was and kind in is_]
    kind = next((k for k in both if set(was[k]) != set(is_[k])), None) or next(k for k in both if was[k] != is_[k])
    before, after = was[kind], is_[kind]
    same = {m: d for m, d in before.items() if after.get(m) == d}
    # What did not change is one line.
    changed = lambda all_: {m: d for m, d in sorted(all_.items()) if m not in same}
    all_changes.append({"commit": commit, "subject": subject, "kind": kind, "same": len(same),
                        "before": changed(before), "after": changed(after)})
    print(commit, kind, len(changed(before)), "->", len(changed(after)), "modules;", len(same), "the same")
with open(os.path.join(HERE, "refactorings.json"), "w") as file:
    json.dump(all_changes, file, indent=1)
    file.write("\n")
