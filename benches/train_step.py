"""Complete training steps at the paper's CIFAR-10 settings, ours and PyTorch's in turn.

    cargo build --release --workspace --examples
    pip install torch==2.11.0 torchvision==0.26.0 pytorch-fid safetensors
    python benches/train_step.py target/release/examples/train_step [MODEL...] [--rounds N] [--device cuda]

Models: vae (phase 1), flow-layer (phase 2), glow (the baseline), pixelcnn, pixeliqn, residual-flow (one block at each
scale and one dense block, of the published widths), features (Inception, against pytorch-fid). Data, noise, forward,
backward, optimiser; each measurement in a process of its own, best of the rounds. The number of parameters must be
the known one. `ceiling` is the share of the fastest matrix product or 1x1 convolution that PyTorch shows in the same
precision on this machine.

If named, sample-pixelcnn and sample-pixeliqn: images drawn in place of training, from networks of the quick profile.
PyTorch passes over the whole image for each sub-pixel; some of the 3,072 passes are timed, as they all cost the same.

--network takes sizes as JSON, in place of those in benches/torch_models/settings.py:

    ... residual-flow --network '{"blocks": [16, 16, 16], "dense_blocks": 4}' --batch 2 --steps 2

One line for each way in which either side runs; `ratio` is how much faster the fastest of ours is than
that of PyTorch. PyTorch is always channels_last.

On the CPU both sides run on two threads, ours in f32, PyTorch in f32 and in bf16 autocast, eager and compiled
(which needs a C++ compiler).

On a GPU (a build with --features cuda) ours runs in f32 and, with REPRO_TF32=1, in TF32; the flow layer
also with its coupling networks layer by layer (REPRO_COUPLING=layers). PyTorch runs in f32, TF32 and bf16
autocast, each eager, compiled, and compiled with CUDA graphs. Peak memory is the device's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from torch_models import settings
from torch_models.settings import EPOCH, THREADS

SIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch_side.py")
# As `repro run` starts a stage: see src/exec/program.rs.
WORKER = {
    "CANDLE_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}


def call(command, more={}):
    """The last line's JSON; or why there is none."""
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more})
    if run.returncode:
        return None, f"{' '.join(command)}: {run.stderr.strip()}"
    return json.loads(run.stdout.splitlines()[-1]), None


def need(command, more={}):
    result, why = call(command, more)
    return result if result is not None else sys.exit(why)


def torch(*arguments):
    return [sys.executable, SIDE, *arguments]


class Bench:
    def __init__(self, binary, device, rounds, weights, variants, options):
        self.binary, self.device, self.rounds, self.weights = binary, device, rounds, weights
        self.variants, self.options = variants, options
        if device == "cpu":
            os.environ.update(OMP_NUM_THREADS=str(THREADS), RAYON_NUM_THREADS=str(THREADS))
        precisions = sorted({v.split("-")[0] for v in variants} | {"f32"} | ({"tf32"} if device != "cpu" else set()))
        self.top = {p: need(torch("ceiling", device, p)) for p in precisions}

    def ours(self, name):
        """Label and environment of each way in which ours runs."""
        ways = {"f32": {"REPRO_TF32": "0"}}
        if self.device != "cpu":
            ways["tf32"] = {"REPRO_TF32": "1"}
            if name == "flow-layer":
                ways["tf32-layers"] = {"REPRO_TF32": "1", "REPRO_COUPLING": "layers"}
            ways = {label: {**way, "REPRO_DEVICE": f"{self.device}:0"} for label, way in ways.items()}
        return ways

    def measure(self, name):
        """The best of the rounds of each variant, of either side."""
        plan, network = settings.of(name, self.device, self.options)
        extra = [self.weights] if name == "features" else []
        # One batch that is not timed and one that is; of PyTorch, steps are single passes.
        steps = 2 if name.startswith("sample-") else plan.steps + plan.warmup
        command = [self.binary, name, *extra, str(steps), str(plan.batch)]
        if name in settings.NETWORKS:
            command.append(json.dumps({**settings.NETWORKS[name], **(network or {})}))
        found = {}

        def note(label, result):
            best = found.get(label)
            if best is None or result["images_per_second"] > best["images_per_second"]:
                found[label] = result

        failed = set()
        for _ in range(self.rounds):
            for label, way in self.ours(name).items():
                note(("ours", label), need(command, {**WORKER, **way}))
            for variant in self.variants:
                if variant in failed:
                    continue
                precision, how = variant.split("-")
                what = ["sample" if name.startswith("sample-") else "train", name]
                what = ["features", self.weights] if name == "features" else what
                result, why = call(torch(*what, self.device, precision, how, json.dumps(self.options)))
                if result is None:
                    failed.add(variant)
                    print(f"{name}: PyTorch {variant} did not run: {why.splitlines()[-1]}", file=sys.stderr)
                else:
                    note(("PyTorch", variant), result)
        if not any(side == "PyTorch" for side, _ in found):
            sys.exit(f"{name}: no variant of PyTorch ran")
        return plan, found

    def print_rows(self, name):
        plan, found = self.measure(name)
        work = need(torch("work", name, self.weights, json.dumps(self.options)))["gflop"]
        ours = max(r["images_per_second"] for (side, _), r in found.items() if side == "ours")
        for (side, label), result in found.items():
            rate = result["images_per_second"]
            share = rate * work / self.top[label.split("-")[0]]["gflops"]
            ratio = f"{ours / rate:5.2f}" if side == "PyTorch" else ""
            digits = 1 if rate >= 10 else 4
            print(
                f"{name:15} {plan.batch:5}  {side:7} {label:13} {rate:9.{digits}f}  {ratio:5}  {share:7.1%}"
                f"  {EPOCH / rate:8.1f}  {result['peak_mb']:7}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--variants", help="of PyTorch: f32|tf32|bf16, a dash, eager|compiled|graphs; with commas")
    parser.add_argument("--network", type=json.loads, help="sizes of the one model that is named")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int)
    args = parser.parse_args()
    models = args.models or [name for name in settings.PARAMETERS if not name.startswith("sample-")]
    for name in models:
        if name not in settings.PARAMETERS:
            parser.error(f"{name}: one of {', '.join(settings.PARAMETERS)}")
    if args.network and (len(models) > 1 or models[0] not in settings.NETWORKS):
        parser.error(f"--network: name one of {', '.join(settings.NETWORKS)}")
    options = {key: value for key in ("network", "batch", "steps") if (value := getattr(args, key))}
    precisions, ways = (("f32", "bf16"), ("eager", "compiled"))
    if args.device != "cpu":
        precisions, ways = (("f32", "tf32", "bf16"), ("eager", "compiled", "graphs"))
    variants = [f"{p}-{how}" for p in precisions for how in ways]
    if args.variants:
        known, variants = variants, args.variants.split(",")
        for variant in variants:
            if variant not in known:
                parser.error(f"{variant}: one of {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "inception.safetensors")
        if "features" in models:
            need(torch("make-weights", weights))
        bench = Bench(args.binary, args.device, args.rounds, weights, variants, options)
        tops = ", ".join(f"{p} {t['gflops'] / 1e3:.2f} TFLOP/s" for p, t in bench.top.items())
        print(f"{bench.top['f32']['device']}; fastest products: {tops}")
        print(f"{'model':15} {'batch':>5}  {'side':7} {'how':13} {'images/s':>9}  ratio  ceiling  {'s/epoch':>8}  peak MB")
        for name in models:
            bench.print_rows(name)


if __name__ == "__main__":
    main()
