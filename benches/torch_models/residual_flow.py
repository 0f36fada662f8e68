"""Residual Flow as PyTorch runs it fastest.

The vector that the Neumann series gives is found by products written out by hand, without a graph; the last product is
a tangent beside the activations, so that no gradient of a gradient is needed. The official code's form, through
autograd twice, is the same gradient and cannot be compiled. 1.1 of LipSwish is folded into the kernel after it."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from torch_models.settings import NETWORKS

COEFFICIENT, ALPHA, TOLERANCE, MOST = 0.98, 0.05, 1e-3, 200
EXACT, MEAN = 2, 2.0


def unit(x):
    return x / x.norm()


class Conv(nn.Module):
    """Its norm is bounded: that of the map on images of `size`."""

    def __init__(self, side, inputs, outputs, size, scale):
        super().__init__()
        limit = 1 / math.sqrt(inputs * side * side)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, side, side).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-limit, limit))
        size = size if side > 1 else (1, 1)
        self.register_buffer("u", unit(torch.randn(1, outputs, *size)))
        self.register_buffer("v", unit(torch.randn(1, inputs, *size)))
        self.padding, self.scale = side // 2, scale

    def kernel(self):
        norm = (self.u * F.conv2d(self.v, self.weight, padding=self.padding)).sum()
        return self.weight * (self.scale / torch.clamp(norm / COEFFICIENT, min=1))

    @torch.no_grad()
    def settle(self):
        for _ in range(MOST):
            u = unit(F.conv2d(self.v, self.weight, padding=self.padding))
            v = unit(F.conv_transpose2d(u, self.weight, padding=self.padding))
            moved = [
                (new - old).norm() / math.sqrt(new.numel()) / (1 + new.max())
                for new, old in ((u, self.u), (v, self.v))
            ]
            self.u.copy_(u)
            self.v.copy_(v)
            if max(moved) < TOLERANCE:
                break


def vjp(s, kernels, slopes):
    """s' J."""
    for kernel, slope in zip(reversed(kernels), reversed(slopes)):
        s = F.conv_transpose2d(s, kernel, padding=kernel.shape[-1] // 2)
        if slope is not None:
            s = s * slope
    return s


def pair(x, e, kernels, biases, betas):
    """g(x), J e, and 1.1 times the slopes of activations."""
    slopes = []
    for kernel, bias, beta in zip(kernels, biases, betas):
        slope = None
        if beta is not None:
            b = F.softplus(beta)
            t = torch.sigmoid(b * x)
            x = x * t
            slope = torch.addcmul(t, b * x, 1 - t)
            e = e * slope
            slope = slope.detach()
        slopes.append(slope)
        padding = kernel.shape[-1] // 2
        x = F.conv2d(x, kernel, bias, padding=padding)
        e = F.conv2d(e, kernel, padding=padding)
    return x, e, slopes


class Block(nn.Module):
    def __init__(self, side, channels, width, size, leading):
        super().__init__()
        sizes = [(side, channels, width), (1, width, width), (side, width, channels)]
        active = [leading, True, True]
        self.convs = nn.ModuleList(Conv(*s, size, 1 / 1.1 if a else 1.0) for s, a in zip(sizes, active))
        self.betas = nn.ParameterList(nn.Parameter(torch.tensor([0.5])) for a in active if a)
        self.leading = leading

    def parts(self):
        betas = list(self.betas) if self.leading else [None, *self.betas]
        return [c.kernel() for c in self.convs], [c.bias for c in self.convs], betas


class ActNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x):
        scale = self.log_scale.exp()
        y = torch.addcmul(self.bias * scale, x, scale)
        return y, x.shape[2] * x.shape[3] * self.log_scale.sum()


class ResidualFlow(nn.Module):
    def __init__(self, network=NETWORKS["residual-flow"]):
        super().__init__()
        self.pair, self.vjp = pair, vjp
        channels, size, layers, count = 3, (32, 32), [ActNorm(3)], 0
        # No block: images are squeezed, then made one pixel.
        for scale, blocks in enumerate([*network["blocks"], network["dense_blocks"]]):
            dense = scale == len(network["blocks"])
            if dense and blocks:
                channels, size = channels * size[0] * size[1], (1, 1)
                layers.append(nn.Flatten())
            elif 0 < scale and not dense:
                channels, size = 4 * channels, (size[0] // 2, size[1] // 2)
                layers.append(nn.PixelUnshuffle(2))
            side, width = (1, network["dense_width"]) if dense else (3, network["width"])
            for _ in range(blocks):
                layers += [Block(side, channels, width, size, count > 0), ActNorm(channels)]
                count += 1
        self.layers = nn.ModuleList(layers)
        reached = [1 - sum(math.exp(-MEAN) * MEAN**j / math.factorial(j) for j in range(k)) for k in range(1, 16)]
        self.more = [1 / p for p in reached]

    def compile_parts(self, compiled):
        """How many products a step takes is drawn anew, so what is compiled is one."""
        torch._dynamo.config.automatic_dynamic_shapes = False
        self.pair, self.vjp = compiled(pair), compiled(vjp)

    def blocks(self):
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def moved(self):
        """After each step."""
        for block in self.blocks():
            for conv in block.convs:
                conv.settle()

    def block(self, block, x, terms):
        e = torch.randn_like(x)
        kernels, biases, betas = block.parts()
        g, along, slopes = self.pair(x, e, kernels, biases, betas)
        with torch.no_grad():
            fixed = [kernel.detach() for kernel in kernels]
            s, total = e, e
            for k in range(1, terms + 1):
                s = self.vjp(s, fixed, slopes)
                weight = self.more[k - EXACT - 1] if k > EXACT else 1.0
                total = total + (-weight if k % 2 else weight) * s
        return x + g, (along * total).flatten(1).sum(1)

    def loss(self, images):
        y = (images.float() + torch.rand(images.shape)).div_(256).permute(0, 3, 1, 2)
        flipped = (torch.rand(len(y)) < 0.5).view(-1, 1, 1, 1)
        y = torch.where(flipped, y.flip(3), y).contiguous(memory_format=torch.channels_last)
        s = ALPHA + (1 - 2 * ALPHA) * y
        of_s, of_rest = s.log(), (1 - s).log()
        log_det = (math.log(1 - 2 * ALPHA) - of_s - of_rest).flatten(1).sum(1)
        x = of_s - of_rest
        dims = x[0].numel()
        terms = iter(torch.poisson(torch.full((len(self.blocks()),), MEAN)).clamp(max=15).long().tolist())
        for layer in self.layers:
            if isinstance(layer, nn.Flatten):
                x, change = x.reshape(len(x), dims, 1, 1), 0
            elif isinstance(layer, nn.PixelUnshuffle):
                x, change = layer(x).contiguous(memory_format=torch.channels_last), 0
            elif isinstance(layer, Block):
                x, change = self.block(layer, x, EXACT + next(terms))
            else:
                x, change = layer(x)
            log_det = log_det + change
        log_p = log_det - 0.5 * (x**2).flatten(1).sum(1) - 0.5 * dims * math.log(2 * math.pi)
        return 8 - log_p.mean() / (dims * math.log(2))

    @torch.no_grad()
    def once(self, images):
        """The convolutions of every block, once."""
        x = images.permute(0, 3, 1, 2).float()
        for layer in self.layers:
            if isinstance(layer, Block):
                h = x
                for conv in layer.convs:
                    h = F.conv2d(h, conv.weight, conv.bias, padding=conv.padding)
                x = x + h
            elif isinstance(layer, nn.Flatten):
                x = x.reshape(len(x), -1, 1, 1)
            elif isinstance(layer, nn.PixelUnshuffle):
                x = layer(x)
