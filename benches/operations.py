"""Single operations of a training step on the CPU, ours and PyTorch's in turn.

    cargo build --release --workspace --examples
    pip install torch==2.11.0
    python benches/operations.py target/release/examples/operations [--rounds N]

Both use two threads, f32, channels last; the fastest run of all rounds counts. `GFLOP/s` counts a
multiplication and an addition as two. The operations and their sizes are those of
stages/tools/operations.rs.
"""

import argparse
import json
import os
import subprocess
import sys
import time

THREADS = 2
PARTS = {"forward": None, "input-gradient": [True, False, False], "kernel-gradient": [False, True, False]}


def fastest(run):
    run()
    best, begin, runs = float("inf"), time.perf_counter(), 0
    while runs < 5 or time.perf_counter() - begin < 0.5:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


def theirs(operations):
    """Seconds of each operation, in order."""
    import torch
    import torch.nn.functional as F

    from torch_models.glow import Step
    from torch_models.vae import Block

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    last = torch.channels_last

    def images(o, channels):
        return torch.randn(o["n"], channels, o["side"], o["side"]).contiguous(memory_format=last)

    def both(module, x, part):
        """A module forward, or forward and backward without the time of forward alone."""
        x.requires_grad_()
        if part == "forward":
            return fastest(lambda: module(x))
        dy = torch.ones_like(module(x))
        best = float("inf")
        for i in range(8):
            y = module(x)
            start = time.perf_counter()
            y.backward(dy)
            if i:
                best = min(best, time.perf_counter() - start)
        return best

    def one(o):
        kind, part = o["operation"], o["part"]
        x = images(o, o["inputs"])
        if kind == "conv":
            k, outputs = o["kernel"], o["outputs"]
            w = torch.randn(outputs, o["inputs"], k, k).contiguous(memory_format=last)
            if PARTS[part] is None:
                with torch.no_grad():
                    return fastest(lambda: F.conv2d(x, w, padding=k // 2))
            dy, pad = images(o, outputs), [k // 2] * 2
            return fastest(
                lambda: torch.ops.aten.convolution_backward(
                    dy, x, w, None, [1, 1], pad, [1, 1], False, [0, 0], 1, PARTS[part]
                )
            )
        if kind == "residual":
            return both(Block(o["inputs"]).to(memory_format=last), x, part)
        if kind == "coupling":
            return both(Step(o["inputs"], o["width"]).to(memory_format=last).coupling, x, part)
        if kind == "batch":
            data = torch.full((10_000, o["side"], o["side"], o["inputs"]), 7, dtype=torch.uint8)
            chosen = torch.arange(o["n"]) * 7919 % len(data)
            return fastest(lambda: data[chosen].float())
        return fastest(lambda: torch.randn(x.shape))

    return [one(o) for o in operations]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "RAYON_NUM_THREADS": str(THREADS)}
    # As `repro run` starts a stage: see src/exec/program.rs.
    environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}

    def call(command, text=None):
        run = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
        if run.returncode:
            sys.exit(f"{' '.join(command)}: {run.stderr}")
        return run.stdout

    ours, other = [], []
    for _ in range(args.rounds):
        lines = [json.loads(line) for line in call([args.binary]).splitlines()]
        ours.append([line["seconds"] for line in lines])
        other.append(json.loads(call([sys.executable, __file__, "--theirs"], json.dumps(lines))))
    print(f"{'operation':34} {'part':15} {'ours':>9} {'PyTorch':>9} ms  ratio  {'ours':>5} {'PyTorch':>7} GFLOP/s")
    for line, a, b in zip(lines, map(min, zip(*ours)), map(min, zip(*other))):
        size = f"{line['operation']} {line['n']}x{line['side']}x{line['side']}x{line['inputs']}"
        size += "".join(f" {key} {line[key]}" for key in ("kernel", "outputs", "width") if key in line)
        rates = f"  {line['gflop'] / a:5.0f} {line['gflop'] / b:7.0f}" if line["gflop"] else ""
        print(f"{size:34} {line['part']:15} {a * 1e3:9.2f} {b * 1e3:9.2f}     {b / a:5.2f}{rates}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--theirs"]:
        print(json.dumps(theirs(json.load(sys.stdin))))
    else:
        main()
