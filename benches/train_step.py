"""Complete training steps of the VAE at the paper's CIFAR-10 settings, ours and PyTorch's in turn.

    cargo build --release --examples --workspace
    pip install torch && python benches/train_step.py target/release/examples/train_step

Prints images per second of each and their ratio. Both run on two threads in f32, batch 64: data,
noise, forward, backward, Adam. PyTorch runs eager, channels_last.
"""

import subprocess
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(2)
BATCH, LATENT, ROUNDS, STEPS = 64, 64, 3, 12


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

    def loss(self, x):
        y = (x.float() + torch.rand(x.shape)).div_(256).permute(0, 3, 1, 2)
        pooled = self.encoder(y).mean((2, 3))
        h = pooled
        for dense in self.dense:
            h = dense(F.relu(h))
        mean, log_std = self.heads(h + self.shortcut(pooled)).chunk(2, 1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        h = self.input(z).reshape(-1, 2, 2, 512).permute(0, 3, 1, 2)
        out = self.decoder(h)
        mu, log_sigma = torch.sigmoid(out[:, :3]), out[:, 3:].clamp(-7, 2)
        nll = (0.5 * ((y - mu) * torch.exp(-log_sigma)) ** 2 + log_sigma + 0.9189385).sum((1, 2, 3))
        return (nll - self.log_prior(z) - (log_std + 1.4189385).sum(1)).mean()


def main(binary):
    model = Vae().to(memory_format=torch.channels_last)
    optim = torch.optim.Adam(model.parameters(), 1e-4)
    data = torch.randint(0, 256, (STEPS * BATCH, 32, 32, 3), dtype=torch.uint8)

    def theirs():
        start = time.perf_counter()
        for chosen in torch.randperm(len(data)).split(BATCH):
            optim.zero_grad(set_to_none=True)
            model.loss(data[chosen]).backward()
            optim.step()
        return len(data) / (time.perf_counter() - start)

    theirs()
    best = [0.0, 0.0]
    for i in range(ROUNDS):
        ours = subprocess.run([binary, str(STEPS), str(BATCH)], capture_output=True, text=True, check=True)
        rates = [float(ours.stdout), theirs()]
        best = [max(a, b) for a, b in zip(best, rates)]
        print(f"round {i + 1}: ours {rates[0]:.1f} images/s, PyTorch {rates[1]:.1f}")
    print(f"best: ours {best[0]:.1f}, PyTorch {torch.__version__} {best[1]:.1f}, ratio {best[0] / best[1]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1])
