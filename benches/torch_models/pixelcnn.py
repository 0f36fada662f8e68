"""The Gated PixelCNN and PixelIQN of pipeline.toml, as PyTorch runs them fastest: masks on dense kernels, one fused
cross-entropy."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from torch_models.settings import NETWORKS

KAPPA = 0.002


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
    def __init__(self, n, first, last, told):
        super().__init__()
        maps = colours(n["width"])
        both = torch.cat([maps, maps])
        before, side = (torch.arange(3), n["first_kernel"]) if first else (maps, n["kernel"])
        seen, self.reach = (side + 1) // 2, side // 2
        self.vertical = Masked(before, both, (seen, side), masked=False)
        self.down = Masked(both, both, masked=False)
        self.horizontal = Masked(before, both, (1, seen), own=not first)
        self.skip = Masked(maps, colours(n["skip"]))
        self.out = None if last else Masked(maps, maps)
        self.told = Told(both) if told else None
        self.first = first

    def forward(self, v, h, tau):
        r = self.reach
        a = self.vertical(F.pad(v, (r, r, r, 0)))
        b = self.horizontal(F.pad(h, (r, 0, 0, 0))) + self.down(F.pad(a, (0, 0, 1, 0))[:, :, :-1])
        if self.told is not None:
            b = b + self.told(tau)
        g = gate(b)
        if self.out is not None:
            y = self.out(g)
            v, h = gate(a), y if self.first else y + h
        return v, h, self.skip(g)


class Told(nn.Module):
    """A number for each sub-pixel to the maps of its colour."""

    def __init__(self, both):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(both), 1, 1, 1).uniform_(-1, 1) / math.sqrt(3))
        self.register_buffer("mask", F.one_hot(both, 3).float()[:, :, None, None])

    def forward(self, tau):
        return F.conv2d(tau, self.weight * self.mask)


def gate(x):
    t, s = x.chunk(2, 1)
    return torch.tanh(t) * torch.sigmoid(s)


class Trunk(nn.Module):
    """`outputs` numbers for each sub-pixel, [n, 3 outputs, h, w], of images [n, 3, h, w] in [-1, 1]."""

    def __init__(self, network, outputs, told):
        super().__init__()
        n, last = network, network["layers"]
        self.blocks = nn.ModuleList(Block(n, i == 0, i == last, told) for i in range(last + 1))
        self.head1 = Masked(colours(n["skip"]), colours(n["head"]))
        self.head2 = Masked(colours(n["head"]), torch.arange(3).repeat_interleave(outputs))

    def run(self, x, tau=None):
        v = h = x
        total = 0
        for block in self.blocks:
            v, h, skip = block(v, h, tau)
            total = total + skip
        return self.head2(F.relu(self.head1(F.relu(total))))


def scaled(images):
    """Of images 0 to 255, [n, h, w, c]."""
    x = images.permute(0, 3, 1, 2).float() * (2 / 255) - 1
    return x.contiguous(memory_format=torch.channels_last)


class PixelCnn(Trunk):
    def __init__(self, network=NETWORKS["pixelcnn"]):
        super().__init__(network, 256, told=False)

    def loss(self, images):
        logits = self.run(scaled(images)).permute(0, 2, 3, 1).reshape(-1, 256)
        return F.cross_entropy(logits.float(), images.reshape(-1).long()) / math.log(2)

    def draw(self, images, y, x, colour):
        """Values of one sub-pixel of all images, which have those before it."""
        logits = self.run(scaled(images))[:, 256 * colour : 256 * (colour + 1), y, x]
        return torch.multinomial(logits.float().softmax(1), 1)[:, 0].to(torch.uint8)


class PixelIqn(Trunk):
    def __init__(self, network=NETWORKS["pixeliqn"]):
        super().__init__(network, 1, told=True)

    def loss(self, images):
        tau = torch.rand(images.shape).permute(0, 3, 1, 2)
        q = self.run(scaled(images), 2 * tau - 1)
        u = images.permute(0, 3, 1, 2).float() / 255 - q
        huber = torch.where(u.abs() <= KAPPA, u * u / (2 * KAPPA), u.abs() - KAPPA / 2)
        return ((tau - (u < 0).float()).abs() * huber).mean()

    def draw(self, images, y, x, colour):
        tau = torch.rand(images.shape).permute(0, 3, 1, 2)
        q = self.run(scaled(images), 2 * tau - 1)[:, colour, y, x]
        return (255 * q.clamp(0, 1)).round().to(torch.uint8)
