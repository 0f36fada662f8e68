"""Golden numbers for PixelCNN and PixelIQN, from an independent PyTorch model.

    pip install torch numpy safetensors && python tests/golden/pixel.py tests/golden

Writes pixelcnn and pixeliqn (.safetensors): two batches of bytes `x` and, of the latter, of `tau`; weights before
(`w.`) and after 20 steps (`f.`) of Adam, gradients of the first loss (`g.`), the loss of every step, and for the first
batch before training the output `y`. All in f64, images [n, h, w, c]. PixelCNN is with skips and contiguous colours,
PixelIQN without skips, with colours in turn and residual connections in both stacks.

Both stacks are full square kernels here, with every tap that is not in a stack's view at zero: another way to the
same model than two kernels of half the size.
"""

import math
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
STEPS, LR, COLOURS, WIDTH, HEAD = 20, 1e-3, 3, 7, 5


class Net:
    """Parameters by name as [kh, kw, in, out], created on first use; images are [n, c, h, w] inside."""

    def __init__(self, seed, outputs, skip, interleaved, vertical_residual, told):
        self.rng = torch.Generator().manual_seed(seed)
        self.p = {}
        self.outputs, self.skip, self.interleaved = outputs, skip, interleaved
        self.vertical_residual, self.told = vertical_residual, told

    def get(self, name, *shape, std):
        if name not in self.p:
            self.p[name] = (torch.randn(*shape, generator=self.rng) * std).requires_grad_()
        return self.p[name]

    def colours(self, maps):
        if self.interleaved:
            return torch.arange(maps) % COLOURS
        sizes = [maps // COLOURS + (c < maps % COLOURS) for c in range(COLOURS)]
        return torch.cat([torch.full((s,), c) for c, s in enumerate(sizes)])

    def biased(self, y, name, out):
        return y + self.get(name + ".bias", out, std=0.1)[:, None, None]

    def point(self, x, name, before, after):
        """1x1, a map reads colours up to its own."""
        w = self.get(name + ".weight", 1, 1, len(before), len(after), std=1 / math.sqrt(len(before)))[0, 0]
        w = w * (before[:, None] <= after[None, :])
        return self.biased(torch.einsum("nihw,io->nohw", x, w), name, len(after))

    def vertical(self, x, name, side, out):
        seen, c = (side + 1) // 2, x.shape[1]
        w = self.get(name + ".weight", seen, side, c, out, std=1 / math.sqrt(seen * side * c))
        full = torch.zeros(side, side, c, out)
        full[:seen] = w
        return self.biased(F.conv2d(x, full.permute(3, 2, 0, 1), padding=side // 2), name, out)

    def horizontal(self, x, name, side, before, after, first):
        seen, c, out = (side + 1) // 2, len(before), len(after)
        w = self.get(name + ".weight", 1, seen, c, out, std=1 / math.sqrt(seen * c))
        own = before[:, None] < after[None, :] if first else before[:, None] <= after[None, :]
        mask = torch.ones(seen, c, out)
        mask[-1] = own
        full = torch.zeros(side, side, c, out)
        full[side // 2, :seen] = w[0] * mask
        return self.biased(F.conv2d(x, full.permute(3, 2, 0, 1), padding=side // 2), name, out)

    def trunk(self, x, tau, layers, first_kernel, kernel):
        v = h = x
        groups = self.colours(WIDTH)
        both = torch.cat([groups, groups])
        total = 0
        for i in range(layers + 1):
            first, last = i == 0, i == layers
            side, name = (first_kernel if first else kernel), f"block{i}"
            before = torch.arange(COLOURS) if first else groups
            a = self.vertical(v, name + ".vertical", side, 2 * WIDTH)
            shifted = F.pad(a, (0, 0, 1, 0))[:, :, :-1]
            w = self.get(name + ".down.weight", 1, 1, 2 * WIDTH, 2 * WIDTH, std=0.3)[0, 0]
            b = self.biased(torch.einsum("nihw,io->nohw", shifted, w), name + ".down", 2 * WIDTH)
            b = b + self.horizontal(h, name + ".horizontal", side, before, both, first)
            if self.told:
                weight = self.get(name + ".told.weight", 1, 2 * WIDTH, std=0.5)[0]
                b = b + (2 * tau - 1)[:, both] * weight[:, None, None]
            g = torch.tanh(b[:, :WIDTH]) * torch.sigmoid(b[:, WIDTH:])
            if self.skip:
                total = total + self.point(g, name + ".skip", groups, self.colours(self.skip))
            if not (last and self.skip):
                y = self.point(g, name + ".out", groups, groups)
                h = y if first else y + h
            if not last:
                z = torch.tanh(a[:, :WIDTH]) * torch.sigmoid(a[:, WIDTH:])
                v = z + v if self.vertical_residual and not first else z
        maps, read = (total, self.colours(self.skip)) if self.skip else (h, groups)
        inner = self.colours(HEAD)
        given = torch.arange(COLOURS).repeat_interleave(self.outputs)
        y = F.relu(self.point(F.relu(maps), "head1", read, inner))
        return self.point(y, "head2", inner, given).permute(0, 2, 3, 1)


def cnn(net):
    def run(x, _):
        y = net.trunk((2 * x / 255 - 1).permute(0, 3, 1, 2), None, 2, 5, 3)
        y = y.reshape(*x.shape, 256)
        return F.cross_entropy(y.reshape(-1, 256), x.long().reshape(-1)) / math.log(2), y

    return run


def iqn(net, kappa):
    def run(x, tau):
        q = net.trunk((x / 255).permute(0, 3, 1, 2), tau.permute(0, 3, 1, 2), 2, 5, 3)
        u = x / 255 - q
        huber = torch.where(u.abs() <= kappa, u * u / (2 * kappa), u.abs() - kappa / 2)
        return ((tau - (u < 0).double()).abs() * huber).mean(), q

    return run


def write(path, net, run, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, 2, 4, 5, COLOURS), generator=rng).double()
    tau = torch.rand(2, 2, 4, 5, COLOURS, generator=rng)
    out = {"x": x, "tau": tau}
    loss, y = run(x[0], tau[0])
    out["y"] = y.detach()
    out |= {"w." + n: p.detach().clone() for n, p in net.p.items()}
    loss.backward()
    out |= {"g." + n: p.grad.clone() for n, p in net.p.items()}
    optim = torch.optim.Adam(net.p.values(), lr=LR)
    losses = []
    for step in range(STEPS):
        optim.zero_grad()
        loss, _ = run(x[step % 2], tau[step % 2])
        losses.append(loss.detach())
        loss.backward()
        optim.step()
    out["losses"] = torch.stack(losses)
    out |= {"f." + n: p.detach().clone() for n, p in net.p.items()}
    save_file({n: t.contiguous() for n, t in out.items()}, path)


if __name__ == "__main__":
    folder = sys.argv[1]
    net = Net(1, 256, 6, False, False, False)
    write(f"{folder}/pixelcnn.safetensors", net, cnn(net), 2)
    net = Net(3, 1, 0, True, True, True)
    write(f"{folder}/pixeliqn.safetensors", net, iqn(net, 0.002), 4)
