"""Complete training steps at the paper's CIFAR-10 settings, ours and PyTorch's in turn.

    cargo build --release --workspace --examples
    pip install torch==2.11.0 pytorch-fid safetensors
    python benches/train_step.py target/release/examples/train_step [MODEL...] [--rounds N]

Models: vae (phase 1), flow-layer (phase 2), glow (the baseline), features (Inception, against
pytorch-fid). Both sides run on two threads in f32: data, noise, forward, backward, optimiser, each
in a process of its own, best of the rounds. PyTorch runs eager, channels_last. The number of
parameters must be the known one. `ceiling` is the share of the fastest matrix product or 1x1
convolution that PyTorch shows on this machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

THREADS = 2
# images of a batch, batches of a round; parameters trained, by REFERENCE.md and our own tests
MODELS = {
    "vae": (64, 12, 5_191_334 + 18_383_872),
    "flow-layer": (16, 4, 2_426_016),
    "glow": (16, 4, 38_395_668),
    "features": (32, 5, None),
}
EPOCH = 50_000


def multiplications(torch, model, run):
    """Of one call of `run`, in convolutions and products: forward only."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def theirs(name, weights):
    import torch

    from torch_models.glow import FlowLayer, Glow
    from torch_models.vae import Vae

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    batch, steps, parameters = MODELS[name]
    if name == "features":
        return features(torch, weights)
    model = {"vae": Vae, "flow-layer": lambda: FlowLayer(Vae()), "glow": Glow}[name]()
    model = model.to(memory_format=torch.channels_last)
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters, f"{name}: {count} parameters, not {parameters}"
    rule = torch.optim.Adamax if name == "glow" else torch.optim.Adam
    optim = rule(model.parameters(), 1e-4)
    data = torch.randint(0, 256, (steps * batch, 32, 32, 3), dtype=torch.uint8)

    def epoch():
        for chosen in torch.randperm(len(data)).split(batch):
            optim.zero_grad(set_to_none=True)
            model.loss(data[chosen]).backward()
            optim.step()

    model.loss(data[:batch]).backward()
    optim.step()
    start = time.perf_counter()
    epoch()
    rate = len(data) / (time.perf_counter() - start)
    flops = 3 * multiplications(torch, model, lambda: model.loss(data[:1]))
    return report(rate, flops)


def features(torch, weights):
    """pytorch-fid's network on the weights we also read, from uint8 images to features."""
    import numpy as np
    from pytorch_fid.inception import InceptionV3, fid_inception_v3
    import pytorch_fid.inception as module

    net = inception(torch, module, weights)
    module.fid_inception_v3 = lambda: net
    model = InceptionV3([3]).eval().to(memory_format=torch.channels_last)
    batch, steps, _ = MODELS["features"]
    data = torch.randint(0, 256, (steps * batch, 32, 32, 3), dtype=torch.uint8)

    def pred(images):
        with torch.no_grad():
            x = images.permute(0, 3, 1, 2).float() / 255
            return model(x)[0][:, :, 0, 0].numpy()

    pred(data[:batch])
    start = time.perf_counter()
    rows = np.concatenate([pred(b) for b in data.split(batch)])
    np.mean(rows, axis=0), np.cov(rows, rowvar=False)
    rate = len(data) / (time.perf_counter() - start)
    return report(rate, multiplications(torch, model, lambda: pred(data[:1])))


def inception(torch, module, weights):
    """The FID network without its download."""
    torchvision_net = module._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    net = torchvision_net
    net.Mixed_5b = module.FIDInceptionA(192, pool_features=32)
    net.Mixed_5c = module.FIDInceptionA(256, pool_features=64)
    net.Mixed_5d = module.FIDInceptionA(288, pool_features=64)
    net.Mixed_6b = module.FIDInceptionC(768, channels_7x7=128)
    net.Mixed_6c = module.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6d = module.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6e = module.FIDInceptionC(768, channels_7x7=192)
    net.Mixed_7b = module.FIDInceptionE_1(1280)
    net.Mixed_7c = module.FIDInceptionE_2(2048)
    if os.path.exists(weights):
        from safetensors.torch import load_file

        state = load_file(weights)
        net.load_state_dict(state, strict=False)
    return net


def make_weights(path):
    """Random weights of the FID network as an artifact of kind `extractor`."""
    import torch
    import pytorch_fid.inception as module
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {k: v.contiguous() for k, v in inception(torch, module, path).state_dict().items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked") and not k.startswith("fc")}
    about = json.dumps({"kind": "inception", "sha256": "0" * 64})
    save_file(state, path, {"repro": about})


def report(rate, flops):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"images_per_second": rate, "peak_mb": peak, "gflop": flops / 1e9}


def ceiling():
    """GFLOP/s of the fastest of a few products."""
    import torch

    torch.set_num_threads(THREADS)

    def best(run, flops):
        times = []
        for _ in range(6):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return flops / min(times) / 1e9

    a = torch.randn(1024, 1024)
    rates = [best(lambda: a @ a, 2 * 1024**3)]
    for c in (256, 512):
        x = torch.randn(16, c, 32, 32).contiguous(memory_format=torch.channels_last)
        w = torch.randn(c, c, 1, 1).contiguous(memory_format=torch.channels_last)
        rates.append(best(lambda: torch.nn.functional.conv2d(x, w), 2 * 16 * 1024 * c * c))
    return {"gflops": max(rates)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    # As `repro run` starts a stage: see src/exec/program.rs.
    worker = {
        "RAYON_NUM_THREADS": str(THREADS),
        "CANDLE_NUM_THREADS": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
    }

    def call(command):
        more = worker if command[0] == args.binary else {}
        run = subprocess.run(command, capture_output=True, text=True, env={**environment, **more})
        if run.returncode:
            sys.exit(f"{' '.join(command)}: {run.stderr}")
        return json.loads(run.stdout.splitlines()[-1])

    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "inception.safetensors")
        if "features" in (args.models or MODELS):
            make_weights(weights)
        top = call([sys.executable, __file__, "--ceiling"])["gflops"]
        print(f"fastest product: {top:.0f} GFLOP/s on {THREADS} threads")
        print(f"{'model':10} {'batch':>5}  {'ours':>7} {'PyTorch':>7} images/s  ratio  ceiling  s/epoch  peak MB (PyTorch)")
        for name in args.models or MODELS:
            batch, steps, _ = MODELS[name]
            ours, other = [], []
            for _ in range(args.rounds):
                extra = [weights] if name == "features" else []
                ours.append(call([args.binary, name, *extra, str(steps + 1), str(batch)]))
                other.append(call([sys.executable, __file__, "--theirs", name, weights]))
            fast = [max(r["images_per_second"] for r in side) for side in (ours, other)]
            share = fast[0] * other[0]["gflop"] / top
            print(
                f"{name:10} {batch:5}  {fast[0]:7.1f} {fast[1]:7.1f}           {fast[0] / fast[1]:5.2f}"
                f"  {share:6.0%}  {EPOCH / fast[0]:7.0f}  {ours[0]['peak_mb']:7} ({other[0]['peak_mb']})",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--theirs"]:
        print(json.dumps(theirs(*sys.argv[2:4])))
    elif sys.argv[1:2] == ["--ceiling"]:
        print(json.dumps(ceiling()))
    else:
        main()
