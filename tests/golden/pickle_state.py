"""Writes state.pth, a small state dict as PyTorch saves it. Needs torch."""
import collections
import pathlib

import torch

base = torch.arange(4, dtype=torch.float32)
state = collections.OrderedDict()
state["a.weight"] = torch.arange(6, dtype=torch.float32).reshape(2, 3)
state["a.half"] = torch.tensor([0.5], dtype=torch.float16)
state["a.num_batches_tracked"] = torch.tensor(7)
state["b.part"] = base[2:]
torch.save(state, pathlib.Path(__file__).with_name("state.pth"))
