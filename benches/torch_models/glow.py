"""The flow layer of phase 2 on the frozen VAE, and the multi-scale Glow baseline."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

HALF_LN_TAU = 0.9189385332046727


class EdgeConv(nn.Module):
    """3x3 with an input channel that is 1 outside the image. `scale` and `shift` follow the
    convolution; they are folded into it, which saves a pass over its output."""

    def __init__(self, inputs, outputs, std):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs + 1, 3, 3) * std)

    def forward(self, x, scale, shift):
        weight = self.weight * scale.view(-1, 1, 1, 1)
        if x.shape[1] < 8:
            x = F.pad(x, (1, 1, 1, 1))
            mark = x.new_ones(1, 1, *x.shape[2:])
            mark[:, :, 1:-1, 1:-1] = 0
            x = torch.cat([x, mark.expand(len(x), -1, -1, -1)], 1)
            return F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, shift)
        inside = x.new_ones(1, 1, *x.shape[2:])
        edge = F.conv2d(1 - F.pad(inside, (1, 1, 1, 1)), weight[:, -1:], shift)
        kernel = weight[:, :-1].contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, kernel, padding=1) + edge


class Affine(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self):
        scale = torch.exp(3 * self.log_scale)
        return scale, self.bias * scale


class Step(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.split = channels // 2
        self.norm = Affine(channels)
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())
        self.conv1 = EdgeConv(self.split, width, 0.05)
        self.norm1 = Affine(width)
        self.conv2 = nn.Parameter(torch.randn(width, width, 1, 1) * 0.05)
        self.norm2 = Affine(width)
        self.conv3 = EdgeConv(width, channels - self.split, 0.0)
        self.norm3 = Affine(channels - self.split)

    def forward(self, x):
        scale, shift = self.norm()
        matrix = self.mix * scale
        x = F.conv2d(x, matrix[:, :, None, None], self.mix @ shift)
        pixels = x.shape[2] * x.shape[3]
        log_det = pixels * (3 * self.norm.log_scale.sum() + torch.linalg.slogdet(self.mix)[1])
        return self.coupling(x), log_det

    def coupling(self, x):
        z1, z2 = x.split([self.split, x.shape[1] - self.split], 1)
        h = F.relu_(self.conv1(z1, *self.norm1()))
        scale, shift = self.norm2()
        h = F.relu_(F.conv2d(h, self.conv2 * scale.view(-1, 1, 1, 1), shift))
        return torch.cat([z1, z2 + self.conv3(h, *self.norm3())], 1)


class FlowLayer(nn.Module):
    def __init__(self, vae, depth=32, width=256):
        super().__init__()
        self.steps = nn.ModuleList(Step(3, width) for _ in range(depth))
        self.vae = [vae.eval().requires_grad_(False)]  # not a part: frozen

    def loss(self, x):
        vae = self.vae[0]
        y = (x.float() + torch.rand(x.shape)).div_(256).permute(0, 3, 1, 2)
        with torch.no_grad():
            mean, log_std = vae.encode(y)
            z = mean + log_std.exp() * torch.randn_like(mean)
            mu, log_sigma = vae.decode(z)
            kl = -(vae.log_prior(z) + (log_std + 1.4189385).sum(1))
        log_det = 0
        for step in self.steps:
            y, change = step(y)
            log_det = log_det + change
        nll = (0.5 * ((y - mu) * torch.exp(-log_sigma)) ** 2 + log_sigma + HALF_LN_TAU).sum((1, 2, 3))
        return (nll - log_det).mean() + 0 * kl.mean()


class Glow(nn.Module):
    def __init__(self, levels=3, depth=32, width=512):
        super().__init__()
        self.levels, self.splits, channels = nn.ModuleList(), nn.ModuleList(), 3
        for i in range(levels):
            channels *= 4
            self.levels.append(nn.ModuleList(Step(channels, width) for _ in range(depth)))
            if i + 1 < levels:
                self.splits.append(EdgeConv(channels // 2, channels, 0.0))
                self.splits.append(Affine(channels))
                channels //= 2
        self.top, self.top_affine = EdgeConv(2 * channels, 2 * channels, 0.0), Affine(2 * channels)

    def loss(self, x):
        x = ((x.float() + torch.rand(x.shape)).div_(256) - 0.5).permute(0, 3, 1, 2)
        dims, n = x[0].numel(), len(x)
        total = 0
        for i, steps in enumerate(self.levels):
            x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
            for step in steps:
                x, log_det = step(x)
                total = total + log_det
            if i + 1 < len(self.levels):
                x, z = x.chunk(2, 1)
                out = self.splits[2 * i](x, *self.splits[2 * i + 1]())
                mean, log_std = out[:, 0::2], out[:, 1::2]
            else:
                z = x
                blank = x.new_zeros(1, 2 * x.shape[1], *x.shape[2:])
                mean, log_std = self.top(blank, *self.top_affine()).chunk(2, 1)
            log_p = -0.5 * ((z - mean) * torch.exp(-log_std)) ** 2 - log_std - HALF_LN_TAU
            total = total + log_p.sum((1, 2, 3))
        return -total.mean() / (dims * math.log(2)) + 8
