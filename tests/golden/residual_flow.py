"""Golden numbers for Residual Flow, from an independent PyTorch model.

    pip install torch numpy safetensors && python tests/golden/residual_flow.py tests/golden

Writes residual_flow.safetensors, of a tiny flow (4x6 pixels, blocks [2, 1] of width 5, two dense blocks of 4), f64,
images [n, h, w, c]: two batches `y` in (0, 1); for each block `probe.` and, of the batches, how many terms are added to
two exact ones, `more`, and all their `weights`; for an evaluation of the first batch the same, for each image, as
`eval_more` and `eval_weights` beyond three. Of the first batch before training: its logit `x`, noise `z`, estimated
`log_det` and `bits`; `exact_bits` of its first image by determinants of whole Jacobians, with their gradients
(`exact.`); how actnorms start from it (`start.`). Then weights before (`w.`) and after 20 steps (`f.`), gradients of
the first loss (`g.`), the loss of every step, and singular vectors before (`b.`) and after (`after.`) them.

Everything goes through autograd on images [n, c, h, w]: the official form, with a graph through a vector-Jacobian
product, instead of tangents beside the activations.
"""

import math
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
H, W, C = 4, 6, 3
D = H * W * C
BLOCKS, WIDTH, DENSE, DENSE_WIDTH = [2, 1], 5, 2, 4
N, STEPS, LR, BETAS, EPSILON, CLIP = 2, 20, 1e-3, (0.9, 0.99), 1e-8, 1.0
COEFFICIENT, ALPHA, TOLERANCE = 0.98, 0.05, 1e-3
EXACT, EVAL_EXACT = 2, 3


class Store:
    """Trained tensors and singular vectors by name, in the layout of the file."""

    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(seed)
        self.trained, self.vectors = {}, {}

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.rng)

    def get(self, name, *shape, std, mean=0.0):
        self.trained[name] = (mean + std * self.normal(*shape)).requires_grad_()
        return self.trained[name]


def unit(x):
    return x / x.norm()


class Conv:
    """A convolution divided by max(1, u'Wv / 0.98), at the size of its images; u and v are no variables."""

    def __init__(self, store, name, side, size, inputs, outputs, norm):
        std = norm / (math.sqrt(inputs * side * side) + math.sqrt(outputs))
        self.weight = store.get(name + ".weight", side, side, inputs, outputs, std=std)
        self.bias = store.get(name + ".bias", outputs, std=0.2)
        self.side, self.store, self.name = side, store, name
        # How close a decision was: to divide or not, to stop or not.
        self.closest = 1.0
        height, width = size if side > 1 else (1, 1)
        self.set(unit(store.normal(1, outputs, height, width)), unit(store.normal(1, inputs, height, width)))

    def set(self, u, v):
        self.u, self.v = u, v
        self.store.vectors[self.name + ".u"] = u.permute(0, 2, 3, 1)
        self.store.vectors[self.name + ".v"] = v.permute(0, 2, 3, 1)

    def kernel(self):
        return self.weight.permute(3, 2, 0, 1)

    def norm(self):
        return (self.u * F.conv2d(self.v, self.kernel(), padding=self.side // 2)).sum()

    def __call__(self, x):
        kernel = self.kernel() / torch.clamp(self.norm() / COEFFICIENT, min=1)
        return F.conv2d(x, kernel, self.bias, padding=self.side // 2)

    @torch.no_grad()
    def settle(self):
        """Power iteration until both vectors hardly move."""
        for _ in range(200):
            kernel, padding = self.kernel(), self.side // 2
            u = unit(F.conv2d(self.v, kernel, padding=padding))
            v = unit(F.conv_transpose2d(u, kernel, padding=padding))
            moved = []
            for new, old in ((u, self.u), (v, self.v)):
                moved.append((new - old).norm() / math.sqrt(new.numel()) / (TOLERANCE + TOLERANCE * new.max()))
            self.set(u, v)
            self.closest = min(self.closest, abs(max(moved) - 1))
            if max(moved) < 1:
                break
        self.closest = min(self.closest, abs(self.norm() / COEFFICIENT - 1))


class Block:
    """x + g(x)."""

    def __init__(self, store, name, side, size, channels, width, leading):
        convs = [(side, channels, width), (1, width, width), (side, width, channels)]
        # Some are below 0.98 as they are.
        norms = [1.6, 0.6, 1.3]
        self.convs = [
            Conv(store, f"{name}.conv{j}", k, size, a, b, norm) for j, ((k, a, b), norm) in enumerate(zip(convs, norms))
        ]
        self.betas = [store.get(f"{name}.beta{j}", 1, mean=0.5, std=0.3) if j or leading else None for j in range(3)]

    def g(self, x):
        for conv, beta in zip(self.convs, self.betas):
            if beta is not None:
                x = x * torch.sigmoid(F.softplus(beta) * x) / 1.1
            x = conv(x)
        return x

    def estimate(self, x, e, weights):
        """With weights of each term, for each image or for all."""
        x = x.detach().requires_grad_()
        y, s, total = self.g(x), e, 0
        for k, weight in enumerate(weights, 1):
            (s,) = torch.autograd.grad(y, x, s, retain_graph=True)
            total = total - (-1) ** k * weight / k * (s * e).flatten(1).sum(1)
        return x + y, total

    def surrogate(self, x, e, weights):
        """The Neumann series: of the gradient, so that its value is not the log-determinant."""
        y, s, total = self.g(x), e, e
        for k, weight in enumerate(weights, 1):
            (s,) = torch.autograd.grad(y, x, s, retain_graph=True)
            total = total + (-1) ** k * weight * s
        (last,) = torch.autograd.grad(y, x, total.detach(), create_graph=True)
        return x + y, (last * e).flatten(1).sum(1)

    def exact(self, x):
        y = self.g(x)
        rows = [torch.autograd.grad(y.flatten(1)[:, i].sum(), x, create_graph=True)[0].flatten(1) for i in range(D)]
        jacobian = torch.stack(rows, 1)
        assert torch.linalg.matrix_norm(jacobian.detach(), 2).max() < 0.4
        return x + y, torch.linalg.slogdet(torch.eye(D) + jacobian)[1]


class ActNorm:
    def __init__(self, store, name, channels):
        self.bias = store.get(name + ".bias", channels, std=0.2)
        self.log_scale = store.get(name + ".log_scale", channels, std=0.2)

    def __call__(self, x):
        y = (x + self.bias.view(1, -1, 1, 1)) * self.log_scale.exp().view(1, -1, 1, 1)
        return y, (x.shape[2] * x.shape[3] * self.log_scale.sum()).expand(len(x))


class Flow:
    def __init__(self, store):
        self.layers, channels, size = [ActNorm(store, "norm0", C)], C, (H, W)
        self.blocks = []

        def add(side, width):
            block = Block(store, f"block{len(self.blocks)}", side, size, channels, width, bool(self.blocks))
            self.blocks.append(block)
            self.layers.extend([block, ActNorm(store, f"norm{len(self.blocks)}", channels)])

        for scale, count in enumerate(BLOCKS):
            if scale:
                self.layers.append(lambda x: (F.pixel_unshuffle(x, 2), 0))
                channels, size = 4 * channels, (size[0] // 2, size[1] // 2)
            for _ in range(count):
                add(3, WIDTH)
        # Pixel by pixel, each with all its channels.
        self.layers.append(lambda x: (x.permute(0, 2, 3, 1).reshape(len(x), D, 1, 1), 0))
        channels, size = D, (1, 1)
        for _ in range(DENSE):
            add(1, DENSE_WIDTH)

    def settle(self):
        for block in self.blocks:
            for conv in block.convs:
                conv.settle()

    def forward(self, x, of_block):
        log_det, i = torch.zeros(len(x)), 0
        for layer in self.layers:
            if isinstance(layer, Block):
                x, change = of_block(layer, i, x)
                i += 1
            else:
                x, change = layer(x)
            log_det = log_det + change
        return x.flatten(1), log_det

    @torch.no_grad()
    def start(self, y):
        """Bias and log-scale of each actnorm from a first batch."""
        x, found = logit(y)[0], {}
        for layer in self.layers:
            if isinstance(layer, ActNorm):
                rows = x.transpose(0, 1).flatten(1)
                bias, log_scale = -rows.mean(1), -rows.var(1).clamp(min=0.2).log() / 2
                found[f"norm{len(found) // 2}.bias"] = bias
                found[f"norm{len(found) // 2}.log_scale"] = log_scale
                x = (x + bias.view(1, -1, 1, 1)) * log_scale.exp().view(1, -1, 1, 1)
            elif isinstance(layer, Block):
                x = x + layer.g(x)
            else:
                x = layer(x)[0]
        return found


def logit(y):
    """Of images [n, h, w, c]."""
    s = (ALPHA + (1 - 2 * ALPHA) * y).permute(0, 3, 1, 2)
    slope = (1 - 2 * ALPHA) / (s * (1 - s))
    return s.log() - (1 - s).log(), slope.log().flatten(1).sum(1)


def bits(z, log_det):
    log_p = -0.5 * (z**2).sum(1) - 0.5 * D * math.log(2 * math.pi) + log_det
    return 8 - log_p / (D * math.log(2))


def poisson(more):
    """Weights of terms 1, 2, ... where `more` are added to the exact ones, drawn from Poisson(2)."""
    below = lambda k: sum(math.exp(-2) * 2**j / math.factorial(j) for j in range(k))
    return [1.0] * EXACT + [1 / (1 - below(k)) for k in range(1, more + 1)]


def geometric(more):
    """The same from a geometric law of mean 2: 1 with probability 1/2, 2 with 1/4."""
    return [1.0] * EVAL_EXACT + [2.0 ** (k - 1) for k in range(1, more + 1)]


def padded(rows):
    longest = max(map(len, rows))
    return torch.tensor([row + [0.0] * (longest - len(row)) for row in rows])


def steps(flow, store, loss):
    """Adam in TensorFlow's form, with gradients clipped to a joint norm, and a power iteration after each step."""
    first = {n: torch.zeros_like(p) for n, p in store.trained.items()}
    second = {n: torch.zeros_like(p) for n, p in store.trained.items()}
    losses, gradients = [], None
    for t in range(1, STEPS + 1):
        value = loss((t - 1) % 2)
        grads = dict(zip(store.trained, torch.autograd.grad(value, list(store.trained.values()))))
        losses.append(value.detach())
        gradients = gradients or grads
        norm = math.sqrt(sum((g**2).sum().item() for g in grads.values()))
        scale = min(1.0, CLIP / norm)
        rate = LR * math.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
        with torch.no_grad():
            for n, p in store.trained.items():
                g = grads[n] * scale
                first[n] = BETAS[0] * first[n] + (1 - BETAS[0]) * g
                second[n] = BETAS[1] * second[n] + (1 - BETAS[1]) * g**2
                p -= rate * first[n] / (second[n].sqrt() + EPSILON)
        flow.settle()
    return torch.stack(losses), gradients


def main(folder):
    store = Store(11)
    flow = Flow(store)
    flow.settle()
    convs = [conv for block in flow.blocks for conv in block.convs]
    over = [conv.norm() > COEFFICIENT for conv in convs]
    assert any(over) and not all(over)
    for conv in convs:
        conv.closest = 1.0
    rng = torch.Generator().manual_seed(12)
    draw = lambda *shape: torch.randn(*shape, generator=rng)
    y = torch.randint(0, 256, (2, N, H, W, C), generator=rng)
    y = (y + torch.rand(y.shape, generator=rng)) / 256
    count = len(flow.blocks)
    more = torch.poisson(torch.full((2, count), 2.0), generator=rng).long()
    eval_more = torch.empty(count, N).geometric_(0.5, generator=rng).long()
    weights = [[poisson(int(m)) for m in batch] for batch in more]
    eval_weights = [padded([geometric(int(m)) for m in block]).T for block in eval_more]
    shapes = [(H, W, C)] * BLOCKS[0] + [(H // 2, W // 2, 4 * C)] * BLOCKS[1] + [(1, 1, D)] * DENSE
    probes = [draw(2, N, *shape) for shape in shapes]
    e = lambda i, batch: probes[i][batch].permute(0, 3, 1, 2)

    x, by_logit = logit(y[0])
    z, log_det = flow.forward(x, lambda block, i, x: block.estimate(x, e(i, 0), eval_weights[i]))
    out = {"y": y, "more": more.double(), "weights": padded(sum(weights, []))}
    out |= {"eval_more": eval_more.double(), "x": x.permute(0, 2, 3, 1), "z": z, "log_det": log_det}
    out |= {f"eval_weights.{i}": w for i, w in enumerate(eval_weights)}
    out |= {f"probe.{i}": p for i, p in enumerate(probes)}
    out["bits"] = bits(z, log_det + by_logit)
    out |= {"start." + n: t for n, t in flow.start(y[0]).items()}
    out |= {"w." + n: p.clone() for n, p in store.trained.items()}
    out |= {"b." + n: t.clone() for n, t in store.vectors.items()}

    one = x[:1].requires_grad_()
    z, log_det = flow.forward(one, lambda block, _, x: block.exact(x))
    # Block by block and in one piece.
    rows = [torch.autograd.grad(z[0, i], one, retain_graph=True)[0].flatten() for i in range(D)]
    assert abs(torch.linalg.slogdet(torch.stack(rows))[1] - log_det[0]) < 1e-10
    exact = bits(z, log_det + by_logit[:1])
    out["exact_bits"] = exact
    grads = torch.autograd.grad(exact.sum(), list(store.trained.values()), materialize_grads=True)
    out |= {"exact." + n: g for n, g in zip(store.trained, grads)}

    def loss(batch):
        x, by_logit = logit(y[batch])
        of_block = lambda block, i, x: block.surrogate(x.requires_grad_(), e(i, batch), weights[batch][i])
        z, log_det = flow.forward(x, of_block)
        return bits(z, log_det + by_logit).mean()

    out["losses"], gradients = steps(flow, store, loss)
    # f32 must decide the same.
    assert min(conv.closest for conv in convs) > 5e-4, [conv.closest for conv in convs]
    out |= {"g." + n: g for n, g in gradients.items()}
    out |= {"f." + n: p for n, p in store.trained.items()}
    out |= {"after." + n: t for n, t in store.vectors.items()}
    save_file({n: t.detach().clone().contiguous() for n, t in out.items()}, f"{folder}/residual_flow.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
