"""The VAE of phase 1 with its flow prior, at the paper's CIFAR-10 settings."""

import torch
import torch.nn as nn
import torch.nn.functional as F

LATENT = 64


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(2))
        self.shortcut = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        h = x
        for norm, conv in zip(self.norms, self.convs):
            h = conv(F.relu(norm(h), inplace=True))
        return h + self.shortcut(x)


class Down(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, 2 * c, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv = nn.ConvTranspose2d(a, b, 3, stride=2)

    def forward(self, x):
        return self.conv(x)[:, :, :-1, :-1]


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), Block(32), Down(32), Block(64), Down(64), Block(128)
        )
        self.dense = nn.ModuleList([nn.Linear(128, 512), nn.Linear(512, 512)])
        self.shortcut = nn.Linear(128, 512)
        self.heads = nn.Linear(512, 2 * LATENT)
        self.input = nn.Linear(LATENT, 4 * 512)
        widths, ups = [512, 256, 128, 64, 32], []
        for a, b in zip(widths, widths[1:]):
            ups += [Up(a, b), Block(b)]
        self.decoder = nn.Sequential(*ups, nn.Conv2d(32, 6, 3, padding=1))
        half = LATENT // 2
        self.flow = nn.ModuleList(
            nn.Sequential(nn.Linear(half, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, LATENT))
            for _ in range(16)
        )
        self.order = [torch.randperm(LATENT) for _ in self.flow]

    def log_prior(self, z):
        total = 0
        for net, order in zip(self.flow, self.order):
            a, b = z[:, order].chunk(2, 1)
            s, t = net(a).chunk(2, 1)
            s = 2 * torch.tanh(s / 2)
            z = torch.cat([a, b * s.exp() + t], 1)
            total = total + s.sum(1)
        return total - (0.5 * z**2 + 0.9189385).sum(1)

    def encode(self, y):
        pooled = self.encoder(y).mean((2, 3))
        h = pooled
        for dense in self.dense:
            h = dense(F.relu(h))
        return self.heads(h + self.shortcut(pooled)).chunk(2, 1)

    def decode(self, z):
        h = self.input(z).reshape(-1, 2, 2, 512).permute(0, 3, 1, 2)
        out = self.decoder(h)
        return torch.sigmoid(out[:, :3]), out[:, 3:].clamp(-7, 2)

    def loss(self, x):
        y = (x.float() + torch.rand(x.shape)).div_(256).permute(0, 3, 1, 2)
        mean, log_std = self.encode(y)
        z = mean + log_std.exp() * torch.randn_like(mean)
        mu, log_sigma = self.decode(z)
        nll = (0.5 * ((y - mu) * torch.exp(-log_sigma)) ** 2 + log_sigma + 0.9189385).sum((1, 2, 3))
        return (nll - self.log_prior(z) - (log_std + 1.4189385).sum(1)).mean()
