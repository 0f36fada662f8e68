"""What is measured: batches, steps, and the parameters a model must have."""

from typing import NamedTuple, Optional

THREADS = 2
EPOCH = 50_000


class Plan(NamedTuple):
    batch: int
    steps: int
    # Steps that do not count.
    warmup: int
    # Trained ones, by REFERENCE.md and our own tests.
    parameters: Optional[int]


PARAMETERS = {"vae": 5_191_334 + 18_383_872, "flow-layer": 2_426_016, "glow": 38_395_668, "pixelcnn": 14_130_816, "features": None}
# Batch and steps.
CPU = {"vae": (64, 12), "flow-layer": (16, 4), "glow": (16, 4), "pixelcnn": (8, 3), "features": (32, 5)}
GPU = {"vae": (64, 128), "flow-layer": (64, 128), "glow": (64, 128), "pixelcnn": (64, 128), "features": (64, 60)}
# Ours reads losses back every so many steps; the first time, kernels have been compiled.
READ_BACK = 32


def of(name, device):
    batch, steps = (CPU if device == "cpu" else GPU)[name]
    return Plan(batch, steps, 1 if device == "cpu" else READ_BACK, PARAMETERS[name])
