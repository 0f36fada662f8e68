#!/usr/bin/env python3
"""What it costs to see what programs read: the same pipelines watched and not, in turn.

    python benches/observe.py target/release/repro [ROUNDS]

Prints the median of the rounds of each side and the ratio. `opens` is a program that opens 20,000
files and reads each; `trivial` is 1,000 stages of `true`-like shell; `no-op` is a run with nothing
to do, at 10,000 stages of 10 observed reads each and at one stage of 100,000; ninja's own no-op over
as many edges and depfiles stands beside it where ninja is installed."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

REPRO = os.path.abspath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5


def run(folder, *words, program=REPRO):
    start = time.perf_counter()
    done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return seconds


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def stage(name, line, watch):
    off = "" if watch else "watch = false\n"
    return f"[stage.{name}]\nkind = 'command'\nshell = '''{line}'''\nout.x = 'x'\n{off}\n"


def in_turn(make):
    """`make(watch)` gives a folder in which the run is new each time."""
    sides = {True: [], False: []}
    for _ in range(ROUNDS):
        for watch in (True, False):
            folder = make(watch)
            sides[watch].append(run(folder, "run"))
            shutil.rmtree(folder)
    on, off = (statistics.median(sides[side]) for side in (True, False))
    return on, off


def opens(watch):
    folder = tempfile.mkdtemp()
    for i in range(20_000):
        write(f"{folder}/data/{i % 100}/{i}", "x")
    write(
        f"{folder}/read.py",
        "import sys\nfor i in range(20000):\n    with open('data/%d/%d' % (i % 100, i), 'rb') as f:\n        f.read()\n"
        "open(sys.argv[1], 'w').write('x')\n",
    )
    write(f"{folder}/pipeline.toml", stage("a", f"{sys.executable} read.py {{out.x}}", watch))
    time.sleep(0.1)
    return folder


def trivial(watch):
    folder = tempfile.mkdtemp()
    lines = [stage(f"s{i}", f"echo {i} > {{out.x}}", watch) for i in range(1000)]
    write(f"{folder}/pipeline.toml", "".join(lines))
    return folder


def no_op(folder, program=REPRO, words=("run",)):
    run(folder, *words, program=program)
    time.sleep(0.1)
    run(folder, *words, program=program)
    times = [run(folder, *words, program=program) for _ in range(max(ROUNDS, 5))]
    shutil.rmtree(folder)
    return statistics.median(times)


def many_stages():
    folder = tempfile.mkdtemp()
    for i in range(1000):
        write(f"{folder}/data/{i}", "x\n")
    lines = []
    for i in range(10_000):
        read = " ".join(f"data/{(i + k * 97) % 1000}" for k in range(10))
        lines.append(stage(f"s{i}", f"cat {read} > {{out.x}}", True))
    write(f"{folder}/pipeline.toml", "".join(lines))
    return folder


def many_reads():
    folder = tempfile.mkdtemp()
    for i in range(100_000):
        write(f"{folder}/data/{i % 100}/{i}", "x\n")
    write(f"{folder}/pipeline.toml", stage("a", "find data -type f -print0 | xargs -0 cat > {out.x}", True))
    return folder


def many_edges():
    folder = tempfile.mkdtemp()
    for i in range(1000):
        write(f"{folder}/data/{i}", "x\n")
    lines = ["rule cat\n  command = cat $in > $out\n"]
    for i in range(10_000):
        read = " ".join(f"data/{(i + k * 97) % 1000}" for k in range(10))
        lines.append(f"build out/{i}: cat {read}\n")
    write(f"{folder}/build.ninja", "".join(lines))
    return folder


def main():
    on, off = in_turn(opens)
    print(f"a program that opens 20,000 files: {on:.3f} s watched, {off:.3f} s not: {on / off:.2f}x")
    on, off = in_turn(trivial)
    print(f"1,000 trivial stages: {on:.3f} s watched, {off:.3f} s not: {(on - off):.3f} ms a stage more")
    print(f"nothing to do, one stage with 100,000 observed files: {no_op(many_reads()) * 1e3:.0f} ms")
    print(f"nothing to do, 10,000 stages with 10 observed reads each: {no_op(many_stages()) * 1e3:.1f} ms")
    ninja = shutil.which("ninja")
    if ninja:
        print(f"ninja, 10,000 edges with 10 inputs each: {no_op(many_edges(), ninja, ()) * 1e3:.1f} ms")


main()
