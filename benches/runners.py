#!/usr/bin/env python3
"""Times `repro` beside ninja, n2, DVC and Snakemake on the same graphs of trivial commands.

    cargo build --release && python3 benches/runners.py [100 1000 10000] [wide chain]
    cargo build --release && python3 benches/runners.py hash [GIB]

Runners that are not installed are left out, and said to be. For each: a first run, then the
median of several runs with nothing to do. The last columns are ratios to repro. DVC is left out
above 100 stages (its time grows with the square), Snakemake above 1000. `wide` has the stages
side by side, `chain` one after the other.

`hash` compares with b3sum: one file of GIB gibibytes (2), then 20,000 files of 4 KiB, all in the
page cache; the median of five. repro reads them for a dry run without a store, so nothing is
known of them and nothing is remembered.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPRO = Path(os.environ.get("REPRO_BIN", Path(__file__).resolve().parent.parent / "target/release/repro"))


def repro(n, chain):
    text = []
    for i in range(n):
        source = f"s{i - 1}.x" if chain and i else None
        text.append(f'[stage.s{i}]\nkind = "command"\nout.x = "x"\nparams.i = {i}\n')
        if source:
            text.append(f'run = ["cp", "{{in.x}}", "{{out.x}}"]\nin.x = "{source}"\n')
        else:
            text.append('run = ["cp", "seed", "{out.x}"]\nfiles = "seed"\n')
    Path("pipeline.toml").write_text("".join(text))
    return [str(REPRO), "run"]


def ninja_file(n, chain):
    text = ["rule cp\n  command = cp $in $out\n"]
    for i in range(n):
        source = f"out/s{i - 1}" if chain and i else "seed"
        text.append(f"build out/s{i}: cp {source}\n")
    Path("build.ninja").write_text("".join(text))
    Path("out").mkdir(exist_ok=True)


def ninja(n, chain):
    ninja_file(n, chain)
    return ["ninja", "--quiet"]


def n2(n, chain):
    ninja_file(n, chain)
    return ["n2"]


def snakemake(n, chain):
    text = [f'rule all:\n    input: expand("out/s{{i}}", i=range({n}))\n']
    for i in range(n):
        source = f"out/s{i - 1}" if chain and i else "seed"
        text.append(f'rule s{i}:\n    input: "{source}"\n    output: "out/s{i}"\n    shell: "cp {{input}} {{output}}"\n')
    Path("Snakefile").write_text("".join(text))
    return ["snakemake", "--quiet", "all", "--cores", str(os.cpu_count())]


def dvc(n, chain):
    subprocess.run(["dvc", "init", "--no-scm", "-q"], check=True)
    Path("out").mkdir(exist_ok=True)
    text = ["stages:\n"]
    for i in range(n):
        source = f"out/s{i - 1}" if chain and i else "seed"
        text.append(f"  s{i}:\n    cmd: cp {source} out/s{i}\n    deps: [{source}]\n    outs: [out/s{i}]\n")
    Path("dvc.yaml").write_text("".join(text))
    return ["dvc", "repro", "-q"]


RUNNERS = {"repro": (repro, 10**9), "ninja": (ninja, 10**9), "n2": (n2, 10**9),
           "snakemake": (snakemake, 1000), "dvc": (dvc, 100)}


def timed(command):
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr[-2000:]}")
    return time.perf_counter() - begin


def hashing(gib):
    """repro and b3sum in turn on the same files."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        block = os.urandom(1 << 24)
        with open("large", "wb") as large:
            for _ in range(int(gib * 64)):
                large.write(block)
        Path("small").mkdir()
        for i in range(20000):
            Path(f"small/{i:05}").write_bytes(block[i:i + 4096])
        for what in ("large", "small"):
            Path("pipeline.toml").write_text(
                f'[stage.s]\nkind = "command"\nrun = ["true", "{{out.x}}"]\nout.x = "x"\nfiles = "{what}"\n')
            files = [what] if what == "large" else sorted(map(str, Path(what).iterdir()))
            commands = {"repro": [str(REPRO), "run", "--dry-run"], "b3sum": ["b3sum", *files]}
            times = {name: [] for name in commands}
            for _ in range(6):
                for name, command in commands.items():
                    times[name].append(timed(command))
            # The first of each warms the page cache.
            ours, theirs = (statistics.median(times[name][1:]) for name in commands)
            print(f"{what:6} repro {ours * 1e3:8.1f} ms   b3sum {theirs * 1e3:8.1f} ms   {ours / theirs:5.2f}x")
        os.chdir("/")


def main():
    if sys.argv[1:2] == ["hash"]:
        return hashing(float(sys.argv[2]) if len(sys.argv) > 2 else 2.0)
    graphs = [a for a in sys.argv[1:] if not a.isdigit()] or ["wide", "chain"]
    sizes = [int(a) for a in sys.argv[1:] if a.isdigit()] or [100, 1000, 10000]
    print(f"{'graph':14} {'runner':10} {'first run':>10} {'a stage':>9} {'no-op':>9}   {'first':>7} {'no-op':>7} of repro's")
    for n in sizes:
        for graph in graphs:
            chain, base = graph == "chain", None
            for name, (prepare, most) in RUNNERS.items():
                if n > most:
                    continue
                if name != "repro" and shutil.which(name) is None:
                    print(f"{'':14} {name:10} not installed")
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    os.chdir(folder)
                    Path("seed").write_text("seed\n")
                    command = prepare(n, chain)
                    first = timed(command)
                    noop = statistics.median(timed(command) for _ in range(5 if most > 1000 else 3))
                    os.chdir("/")
                base = base or (first, noop)
                print(f"{n:6} {graph:7} {name:10} {first:9.2f}s {first / n * 1e3:7.2f}ms {noop * 1e3:7.1f}ms"
                      f"   {first / base[0]:6.2f}x {noop / base[1]:6.2f}x", flush=True)


main()
