"""PyTorch's side of benches/train_step.py: one measurement in a process of its own."""

import json
import os
import resource
import sys
import time

from torch_models import settings

PRECISIONS = ("f32", "tf32", "bf16")


def start(torch, device, precision):
    """Sets the device and the precision up; gives the context in which losses are computed."""
    if device == "cpu":
        torch.set_num_threads(settings.THREADS)
    else:
        # The models draw their noise on the default device.
        torch.set_default_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = precision != "f32"
        torch.backends.cudnn.allow_tf32 = precision != "f32"
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def synchronize(torch, device):
    if device != "cpu":
        torch.cuda.synchronize()


def compiled(torch, function, how):
    modes = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}
    mode = modes[how]
    return function if mode is None else torch.compile(function, mode=mode)


def build(name, network):
    """A model by its name, of other sizes than its own where these are given."""
    from torch_models.glow import FlowLayer, Glow
    from torch_models.pixelcnn import PixelCnn, PixelIqn
    from torch_models.residual_flow import ResidualFlow
    from torch_models.vae import Vae

    if name in settings.NETWORKS:
        models = {"pixelcnn": PixelCnn, "pixeliqn": PixelIqn, "residual-flow": ResidualFlow}
        return models[name.removeprefix("sample-")]({**settings.NETWORKS[name], **(network or {})})
    return {"vae": Vae, "flow-layer": lambda: FlowLayer(Vae()), "glow": Glow}[name]()


def train(name, device, precision, how, options="{}"):
    """Images per second of training steps of a model."""
    import torch

    autocast = start(torch, device, precision)
    torch.manual_seed(0)
    plan, network = settings.of(name, device, json.loads(options))
    model = build(name, network).to(memory_format=torch.channels_last)
    count = sum(p.numel() for p in model.parameters())
    assert plan.parameters in (None, count), f"{name}: {count} parameters, not {plan.parameters}"
    rule = torch.optim.Adamax if name == "glow" else torch.optim.Adam
    optim = rule(model.parameters(), 1e-4)
    data = torch.randint(0, 256, (plan.steps * plan.batch, 32, 32, 3), dtype=torch.uint8)
    loss = model.loss
    if hasattr(model, "compile_parts"):
        model.compile_parts(lambda part: compiled(torch, part, how))
    else:
        loss = compiled(torch, loss, how)
    moved = getattr(model, "moved", lambda: None)

    def step(images):
        optim.zero_grad(set_to_none=True)
        with autocast:
            value = loss(images)
        value.backward()
        optim.step()
        moved()

    for _ in range(plan.warmup):
        step(data[: plan.batch])
    synchronize(torch, device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    for chosen in torch.randperm(len(data)).split(plan.batch):
        step(data[chosen])
    synchronize(torch, device)
    return report(torch, device, len(data) / (time.perf_counter() - begin))


def sample(name, device, precision, how, options="{}"):
    """Images per second of drawing them by a loop that passes over the whole image for each of its sub-pixels. All
    passes cost the same, and a few of them, all over the image, are timed."""
    import torch

    autocast = start(torch, device, precision)
    torch.manual_seed(0)
    plan, network = settings.of(name, device, json.loads(options))
    model = build(name, network).to(memory_format=torch.channels_last)
    model.run = compiled(torch, model.run, how)
    images = torch.zeros((plan.batch, 32, 32, 3), dtype=torch.uint8)
    places = images[0].numel()

    def draw(place):
        y, x, colour = place // 96, place // 3 % 32, place % 3
        with torch.no_grad(), autocast:
            images[:, y, x, colour] = model.draw(images, y, x, colour)

    for _ in range(plan.warmup):
        draw(0)
    synchronize(torch, device)
    begin = time.perf_counter()
    for i in range(plan.steps):
        draw(i * places // plan.steps)
    synchronize(torch, device)
    each = (time.perf_counter() - begin) / plan.steps
    return report(torch, device, plan.batch / (each * places))


def features(weights, device, precision, how, options="{}"):
    """pytorch-fid's network on the weights we also read, from uint8 images to features and their
    covariance."""
    import numpy as np
    import pytorch_fid.inception as module
    import torch

    autocast = start(torch, device, precision)
    net = inception(module, weights)
    module.fid_inception_v3 = lambda: net
    model = module.InceptionV3([3]).eval().to(memory_format=torch.channels_last)
    model = compiled(torch, model.to(device), how)
    plan, _ = settings.of("features", device, json.loads(options))
    # As pytorch-fid has them: on the host.
    data = torch.randint(0, 256, (plan.steps * plan.batch, 32, 32, 3), dtype=torch.uint8, device="cpu")

    def pred(images):
        with torch.no_grad(), autocast:
            x = images.to(device).permute(0, 3, 1, 2).float() / 255
            return model(x)[0][:, :, 0, 0].float().cpu().numpy()

    for _ in range(plan.warmup):
        pred(data[: plan.batch])
    begin = time.perf_counter()
    rows = np.concatenate([pred(b) for b in data.split(plan.batch)])
    np.mean(rows, axis=0), np.cov(rows, rowvar=False)
    return report(torch, device, len(data) / (time.perf_counter() - begin))


def inception(module, weights):
    """The FID network without its download."""
    net = module._inception_v3(num_classes=1008, aux_logits=False, weights=None)
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

        net.load_state_dict(load_file(weights), strict=False)
    return net


def make_weights(path):
    """Random weights of the FID network as an artifact of kind `extractor`."""
    import pytorch_fid.inception as module
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {k: v.contiguous() for k, v in inception(module, path).state_dict().items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked") and not k.startswith("fc")}
    save_file(state, path, {"repro": json.dumps({"kind": "inception", "sha256": "0" * 64})})
    return {}


def report(torch, device, rate):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if device != "cpu":
        peak = torch.cuda.max_memory_allocated() >> 20
    return {"images_per_second": rate, "peak_mb": peak}


def work(name, weights, options="{}"):
    """GFLOP in convolutions and products of one image: a step counts as three forward passes; of Residual Flow, where
    four terms of a series are expected, as ten; drawing an image as one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    if name == "features":
        import pytorch_fid.inception as module

        net = inception(module, weights)
        module.fid_inception_v3 = lambda: net
        model = module.InceptionV3([3]).eval()
        passes, run = 1, lambda: model(torch.zeros(1, 3, 32, 32))
    else:
        model = build(name, json.loads(options).get("network"))
        passes, run = 1 if name.startswith("sample-") else 3, lambda: model.loss(image)
        if name == "residual-flow":
            passes, run = 10, lambda: model.once(image)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return {"gflop": passes * counter.get_total_flops() / 1e9}


def ceiling(device, precision):
    """GFLOP/s of the fastest of a few products and 1x1 convolutions."""
    import torch

    start(torch, device, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def best(run, flops):
        times = []
        for _ in range(20):
            synchronize(torch, device)
            begin = time.perf_counter()
            run()
            synchronize(torch, device)
            times.append(time.perf_counter() - begin)
        return flops / min(times) / 1e9

    size, images = (1024, 16) if device == "cpu" else (8192, 256)
    a = torch.randn(size, size, dtype=dtype)
    rates = [best(lambda: a @ a, 2 * size**3)]
    for c in (256, 512):
        x = torch.randn(images, c, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
        w = torch.randn(c, c, 1, 1, dtype=dtype).contiguous(memory_format=torch.channels_last)
        rates.append(best(lambda: torch.nn.functional.conv2d(x, w), 2 * images * 1024 * c * c))
    name = f"CPU, {settings.THREADS} threads" if device == "cpu" else torch.cuda.get_device_name()
    return {"gflops": max(rates), "device": name}


if __name__ == "__main__":
    doors = {"train": train, "sample": sample, "features": features, "make-weights": make_weights}
    doors |= {"work": work, "ceiling": ceiling}
    print(json.dumps(doors[sys.argv[1]](*sys.argv[2:])))
