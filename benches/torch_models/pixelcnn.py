"""The Gated PixelCNN of pipeline.toml, as PyTorch runs it fastest: masks on dense kernels, one fused cross-entropy."""

import math

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, LAYERS, FIRST, KERNEL, SKIP, HEAD = 128, 15, 7, 5, 1024, 1024


def colours(maps):
    sizes = [maps // 3 + (c < maps % 3) for c in range(3)]
    return torch.cat([torch.full((size,), c) for c, size in enumerate(sizes)])


class Masked(nn.Module):
    """A convolution whose last tap passes colours up to its own, or before it."""

    def __init__(self, before, after, shape=(1, 1), own=True, masked=True):
        super().__init__()
        fan_in = len(before) * shape[0] * shape[1]
        self.weight = nn.Parameter(torch.empty(len(after), len(before), *shape).uniform_(-1, 1) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(len(after)))
        mask = torch.ones_like(self.weight)
        if masked:
            a, b = after[:, None], before[None, :]
            mask[:, :, -1, -1] = (b <= a) if own else (b < a)
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias)


class Block(nn.Module):
    def __init__(self, side, before, first, last):
        super().__init__()
        maps = colours(WIDTH)
        both = torch.cat([maps, maps])
        seen, self.reach = (side + 1) // 2, side // 2
        self.vertical = Masked(before, both, (seen, side), masked=False)
        self.down = Masked(both, both, masked=False)
        self.horizontal = Masked(before, both, (1, seen), own=not first)
        self.skip = Masked(maps, colours(SKIP))
        self.out = None if last else Masked(maps, maps)
        self.first = first

    def forward(self, v, h):
        r = self.reach
        a = self.vertical(F.pad(v, (r, r, r, 0)))
        b = self.horizontal(F.pad(h, (r, 0, 0, 0))) + self.down(F.pad(a, (0, 0, 1, 0))[:, :, :-1])
        g = gate(b)
        if self.out is not None:
            y = self.out(g)
            v, h = gate(a), y if self.first else y + h
        return v, h, self.skip(g)


def gate(x):
    t, s = x.chunk(2, 1)
    return torch.tanh(t) * torch.sigmoid(s)


class PixelCnn(nn.Module):
    def __init__(self):
        super().__init__()
        maps = colours(WIDTH)
        self.blocks = nn.ModuleList(
            Block(KERNEL if i else FIRST, maps if i else torch.arange(3), i == 0, i == LAYERS) for i in range(LAYERS + 1)
        )
        self.head1 = Masked(colours(SKIP), colours(HEAD))
        self.head2 = Masked(colours(HEAD), torch.arange(3).repeat_interleave(256))

    def logits(self, x):
        v = h = x
        total = 0
        for block in self.blocks:
            v, h, skip = block(v, h)
            total = total + skip
        return self.head2(F.relu(self.head1(F.relu(total))))

    def loss(self, images):
        x = images.permute(0, 3, 1, 2).float() * (2 / 255) - 1
        logits = self.logits(x.contiguous(memory_format=torch.channels_last))
        logits = logits.permute(0, 2, 3, 1).reshape(-1, 256)
        return F.cross_entropy(logits.float(), images.reshape(-1).long()) / math.log(2)
