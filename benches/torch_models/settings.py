"""What is measured: batches, steps, and the parameters a model must have."""

from typing import NamedTuple, Optional

THREADS = 2
EPOCH = 50_000


class Plan(NamedTuple):
    batch: int
    steps: int
    # Steps that do not count.
    warmup: int
    # Trained ones, by REFERENCE.md and our own tests, where sizes are as here.
    parameters: Optional[int]


TRUNK = {"layers": 15, "width": 128, "kernel": 5, "first_kernel": 7, "skip": 1024, "head": 1024}
# Sizes that an option may change. Of Residual Flow a block at each scale of the sixteen, for the sake of time; images
# are drawn from the networks of the quick profile.
SMALL = {"layers": 2, "width": 24, "kernel": 3, "first_kernel": 5, "skip": 32, "head": 32}
NETWORKS = {
    "pixelcnn": TRUNK,
    "pixeliqn": TRUNK,
    "residual-flow": {"blocks": [1, 1, 1], "width": 512, "dense_blocks": 1, "dense_width": 128},
    "sample-pixelcnn": SMALL,
    "sample-pixeliqn": SMALL,
}
PARAMETERS = {
    "vae": 5_191_334 + 18_383_872,
    "flow-layer": 2_426_016,
    "glow": 38_395_668,
    "pixelcnn": 14_130_816,
    "pixeliqn": 13_350_787,
    "residual-flow": 2_182_606,
    "sample-pixelcnn": None,
    "sample-pixeliqn": None,
    "features": None,
}
# Batch and steps; of samples, passes of PyTorch's that are timed.
CPU = {
    "vae": (64, 12),
    "flow-layer": (16, 4),
    "glow": (16, 4),
    "pixelcnn": (8, 3),
    "pixeliqn": (8, 3),
    "residual-flow": (8, 4),
    "sample-pixelcnn": (8, 48),
    "sample-pixeliqn": (8, 48),
    "features": (32, 5),
}
GPU = {
    "vae": (64, 128),
    "flow-layer": (64, 128),
    "glow": (64, 128),
    "pixelcnn": (64, 128),
    "pixeliqn": (64, 128),
    "residual-flow": (64, 128),
    "sample-pixelcnn": (500, 96),
    "sample-pixeliqn": (500, 96),
    "features": (64, 60),
}
# Ours reads losses back every so many steps; the first time, kernels have been compiled.
READ_BACK = 32


def of(name, device, options={}):
    """The plan, and sizes in place of those above; `options` may name a batch, steps and a network."""
    batch, steps = (CPU if device == "cpu" else GPU)[name]
    batch, steps = options.get("batch") or batch, options.get("steps") or steps
    network = options.get("network")
    plan = Plan(batch, steps, 1 if device == "cpu" else READ_BACK, None if network else PARAMETERS[name])
    return plan, network
