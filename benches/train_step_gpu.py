#!/usr/bin/env python3
"""Complete training steps at the paper's CIFAR-10 settings on a GPU, ours and PyTorch's in turn.

    cargo build --release --features cuda --workspace --examples
    pip install torch==2.11.0
    python benches/train_step_gpu.py target/release/examples/train_step [MODEL...] [--rounds N]

Models: vae (phase 1), flow-layer (phase 2), glow (the baseline), batch 64. Ours runs in f32 and, with
REPRO_TF32=1, in TF32. PyTorch runs channels_last in f32, TF32 and bf16 autocast, eager and compiled;
`best` is the fastest of its six. Each measurement is a process of its own; the first steps, in which
both compile, do not count. `ceiling` is the share of the fastest matrix product in the same precision.

NOT YET RUN on a GPU: the models are those of train_step.py, which has been run.
"""

import argparse
import json
import os
import subprocess
import sys
import time

BATCH, WARMUP, STEPS, EPOCH = 64, 20, 100, 50_000
MODELS = {"vae": 5_191_334 + 18_383_872, "flow-layer": 2_426_016, "glow": 38_395_668}
PRECISIONS = ("f32", "tf32", "bf16")


def set_precision(torch, precision):
    allowed = precision != "f32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    return torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16")


def theirs(name, precision, compiled):
    import torch

    from torch_models.glow import FlowLayer, Glow
    from torch_models.vae import Vae

    torch.manual_seed(0)
    # The models draw their noise on the default device.
    torch.set_default_device("cuda")
    torch.backends.cudnn.benchmark = True
    autocast = set_precision(torch, precision)
    model = {"vae": Vae, "flow-layer": lambda: FlowLayer(Vae()), "glow": Glow}[name]()
    model = model.to(memory_format=torch.channels_last)
    count = sum(p.numel() for p in model.parameters())
    assert count == MODELS[name], f"{name}: {count} parameters, not {MODELS[name]}"
    rule = torch.optim.Adamax if name == "glow" else torch.optim.Adam
    optim = rule(model.parameters(), 1e-4, foreach=True)
    data = torch.randint(0, 256, ((WARMUP + STEPS) * BATCH, 32, 32, 3), dtype=torch.uint8)
    loss = torch.compile(model.loss) if compiled else model.loss

    def run(first, count):
        for i in range(first, first + count):
            optim.zero_grad(set_to_none=True)
            with autocast:
                value = loss(data[i * BATCH : (i + 1) * BATCH])
            value.backward()
            optim.step()
        torch.cuda.synchronize()

    run(0, WARMUP)
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run(WARMUP, STEPS)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() >> 20
    return {"images_per_second": STEPS * BATCH / seconds, "peak_mb": peak}


def flops(name):
    """Of one image's training step in convolutions and products, counted on the CPU."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from torch_models.glow import FlowLayer, Glow
    from torch_models.vae import Vae

    model = {"vae": Vae, "flow-layer": lambda: FlowLayer(Vae()), "glow": Glow}[name]()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.loss(torch.zeros((1, 32, 32, 3), dtype=torch.uint8))
    return {"gflop": 3 * counter.get_total_flops() / 1e9}


def ceiling(precision):
    """GFLOP/s of a large matrix product."""
    import torch

    set_precision(torch, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    times = []
    for _ in range(12):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return {"gflops": 2 * 8192**3 / min(times) / 1e9, "gpu": torch.cuda.get_device_name()}


def call(command, **environment):
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if run.returncode:
        sys.exit(f"{' '.join(command)}: {run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    this = [sys.executable, __file__]
    top = {p: call([*this, "--ceiling", p]) for p in PRECISIONS}
    print(top["f32"]["gpu"], {p: f"{t['gflops'] / 1e3:.0f} TFLOP/s" for p, t in top.items()})
    for name in args.models or MODELS:
        work = call([*this, "--flops", name])["gflop"]
        rates = {}

        def note(side, result):
            rates[side] = max(rates.get(side, 0), result["images_per_second"])

        for _ in range(args.rounds):
            for tf32 in ("0", "1"):
                ours = [args.binary, name, str(WARMUP + STEPS), str(BATCH)]
                side = "ours tf32" if tf32 == "1" else "ours f32"
                note(side, call(ours, REPRO_DEVICE="cuda:0", REPRO_TF32=tf32))
            for precision in PRECISIONS:
                for compiled in ("", "compiled"):
                    note(f"torch {precision} {compiled}".strip(), call([*this, "--theirs", name, precision, compiled]))
        best = max(rate for side, rate in rates.items() if side.startswith("torch"))
        for side, rate in rates.items():
            precision = side.split()[1]
            share = rate * work / top[precision]["gflops"]
            ratio = f"{rate / best:5.2f} of PyTorch's best" if side.startswith("ours") else ""
            print(f"{name:10} {side:20} {rate:8.0f} images/s {EPOCH / rate:6.1f} s/epoch {share:4.0%} {ratio}", flush=True)


if __name__ == "__main__":
    doors = {"--theirs": theirs, "--flops": flops, "--ceiling": ceiling}
    if sys.argv[1:2] and sys.argv[1] in doors:
        print(json.dumps(doors[sys.argv[1]](*sys.argv[2:])))
    else:
        main()
