"""Golden numbers for the flow layer and the multi-scale Glow, from an independent PyTorch model.

    pip install torch numpy safetensors && python tests/golden/flows.py tests/golden

Writes flow_layer, flow_layer_plain, glow_additive, glow_affine and glow_official (.safetensors): two
batches `x`, what is fixed (`b.`), weights before (`w.`) and after 20 steps (`f.`) of Adam, or of the official Glow's Adamax with its
warm-up, gradients of the first loss (`g.`), the loss of every step and after them (`eval`), and
for the first batch before training the output `y` and the log-determinant. All in f64.
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
STEPS, LR = 20, 1e-3
LN_2 = 0.6931471805599453
LN_TAU = 1.8378770664093453


class Flow:
    """Parameters by name, created on first use. Images are [n, c, h, w] inside.

    `plain` has biases and zero padding inside couplings, 1x1 convolutions by their LU factors, and
    conditions on the last channels in every second step.
    """

    def __init__(self, seed, plain=False):
        self.rng = torch.Generator().manual_seed(seed)
        self.p, self.fixed = {}, {}
        self.plain = plain

    def get(self, name, *shape, std=0.1, around=0.0):
        if name not in self.p:
            draw = torch.randn(*shape, generator=self.rng) * std
            self.p[name] = (draw + around).requires_grad_()
        return self.p[name]

    def conv3(self, x, name, out, std=0.3):
        """The image padded by one; one more channel, 1 on the padding and 0 inside."""
        n, c, h, w = x.shape
        mark = F.pad(torch.zeros(n, 1, h, w), (1, 1, 1, 1), value=1.0)
        padded = torch.cat([F.pad(x, (1, 1, 1, 1)), mark], 1)
        weight = self.get(name + ".weight", 3, 3, c + 1, out, std=std)
        return F.conv2d(padded, weight.permute(3, 2, 0, 1))

    def zero_conv(self, x, name, out):
        y = self.conv3(x, name, out, std=0.05) + self.get(name + ".bias", out)[:, None, None]
        return y * torch.exp(3 * self.get(name + ".log_scale", out))[:, None, None]

    def act_norm(self, x, name):
        c = x.shape[1]
        logs = 3 * self.get(name + ".log_scale", c)
        y = (x + self.get(name + ".bias", c)[:, None, None]) * torch.exp(logs)[:, None, None]
        return y, x.shape[2] * x.shape[3] * logs.sum()

    def lu(self, x, name):
        c = x.shape[1]
        if name + ".sign" not in self.fixed:
            order = torch.randperm(c, generator=self.rng)
            self.fixed[name + ".permutation"] = torch.eye(c)[order]
            sign = torch.randint(0, 2, (c,), generator=self.rng) * 2.0 - 1
            self.fixed[name + ".sign"] = sign
        p, sign = self.fixed[name + ".permutation"], self.fixed[name + ".sign"]
        packed = self.get(name + ".lu", c, c, std=0.3)
        log_s = packed.diagonal()
        lower = packed.tril(-1) + torch.eye(c)
        upper = packed.triu(1) + torch.diag(sign * log_s.exp())
        y = torch.einsum("nihw,ij->njhw", x, p @ lower @ upper)
        return y, x.shape[2] * x.shape[3] * log_s.sum()

    def mix(self, x, name):
        c = x.shape[1]
        if self.plain:
            return self.lu(x, name)
        w = self.get(name + ".weight", c, c, std=0.3, around=torch.eye(c))
        y = torch.einsum("nihw,ij->njhw", x, w)
        return y, x.shape[2] * x.shape[3] * torch.linalg.slogdet(w)[1]

    def conv(self, x, name, out, side, std):
        weight = self.get(name + ".weight", side, side, x.shape[1], out, std=std).permute(3, 2, 0, 1)
        return F.conv2d(x, weight.contiguous(), self.get(name + ".bias", out), padding="same")

    def plain_net(self, x, name, width, out):
        h = F.relu(self.conv(x, name + ".conv1", width, 3, 0.3))
        h = F.relu(self.conv(h, name + ".conv2", width, 1, 0.5))
        return self.conv(h, name + ".conv3", out, 3, 0.05)

    def net(self, x, name, width, out):
        if self.plain:
            return self.plain_net(x, name, width, out)
        h = F.relu(self.act_norm(self.conv3(x, name + ".conv1", width), name + ".norm1")[0])
        w = self.get(name + ".conv2.weight", 1, 1, width, width, std=0.5)
        h = torch.einsum("nihw,ij->njhw", h, w[0, 0])
        h = F.relu(self.act_norm(h, name + ".norm2")[0])
        return self.zero_conv(h, name + ".conv3", out)

    def step(self, x, name, width, affine, last_conditions=False):
        x, by_norm = self.act_norm(x, name + ".norm")
        x, by_mix = self.mix(x, name + ".mix")
        a, b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        if last_conditions:
            a, b = b, a
        h = self.net(a, name + ".coupling", width, b.shape[1] * (2 if affine else 1))
        log_det = by_norm + by_mix
        if affine:
            scale = torch.sigmoid(h[:, 1::2] + 2)
            b = (b + h[:, 0::2]) * scale
            log_det = log_det + scale.log().sum((1, 2, 3))
        else:
            b = b + h
        return torch.cat([b, a] if last_conditions else [a, b], 1), log_det


def log_normal(x, mean, log_std):
    terms = -0.5 * LN_TAU - log_std - 0.5 * ((x - mean) * torch.exp(-log_std)) ** 2
    return terms.sum((1, 2, 3))


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous()


def flow_layer(flow, depth, width, mu, log_sigma):
    def run(x):
        y, log_det = x.permute(0, 3, 1, 2), 0
        for k in range(depth):
            last_conditions = flow.plain and k % 2 == 1
            y, change = flow.step(y, f"step{k}", width, False, last_conditions)
            log_det = log_det + change
        loss = -(log_normal(nhwc(y), mu, log_sigma) + log_det).mean()
        return loss, nhwc(y), log_det.expand(len(x))

    return run


def glow(flow, levels, depth, width, affine, learn_top):
    def run(x):
        z, log_p, by_steps, by_priors, parts = x.permute(0, 3, 1, 2), 0, 0, 0, []
        for i in range(levels):
            z = F.pixel_unshuffle(z, 2)
            for k in range(depth):
                z, change = flow.step(z, f"level{i}.step{k}", width, affine)
                by_steps = by_steps + change
            c = z.shape[1]
            if i + 1 < levels:
                z, gone = z[:, : c // 2], z[:, c // 2 :]
                prior = flow.zero_conv(z, f"level{i}.split", c)
                mean, logs = prior[:, 0::2], prior[:, 1::2]
            elif learn_top:
                gone = z
                zeros = torch.zeros(len(x), 2 * c, *z.shape[2:])
                mean, logs = flow.zero_conv(zeros, "top", 2 * c).chunk(2, 1)
            else:
                gone, mean, logs = z, torch.zeros_like(z), torch.zeros_like(z)
            log_p = log_p + log_normal(gone, mean, logs)
            parts.append(nhwc((gone - mean) * torch.exp(-logs)).flatten(1))
            by_priors = by_priors - logs.sum((1, 2, 3))
        # The density by its definition; y and log_det are those of the map to standard noise.
        loss = (8 - (log_p + by_steps) / (LN_2 * x[0].numel())).mean()
        noise, log_det = torch.cat(parts, 1), by_steps + by_priors
        return loss, noise, log_det

    return run


class Adamax:
    """openai/glow's: v is decayed, not mixed, and both moments are corrected as Adam's."""

    def __init__(self, params, steps_per_epoch, warmup_epochs):
        self.params, self.t = params, 0
        self.beta2, self.warmup = 1 - 1 / steps_per_epoch, warmup_epochs * steps_per_epoch
        self.m, self.v = ([torch.zeros_like(p) for p in params] for _ in range(2))

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def step(self):
        # The step size grows with the images seen before this step.
        lr = LR * min(1.0, self.t / self.warmup)
        self.t += 1
        rate = lr * (1 - self.beta2**self.t) ** 0.5 / (1 - 0.9**self.t)
        with torch.no_grad():
            for p, m, v in zip(self.params, self.m, self.v):
                m.mul_(0.9).add_(p.grad * 0.1)
                v.copy_(torch.maximum(self.beta2 * v, p.grad.abs()))
                p.sub_(rate * m / (v + 1e-8))


def record(path, flow, run, x, extra, adamax=False):
    out = {"x": x, "e": torch.zeros(2, 1), **extra}
    loss, y, log_det = run(x[0])
    out["y"], out["log_det"] = y.detach().contiguous(), log_det.detach().contiguous()
    out |= {"b." + name: value for name, value in flow.fixed.items()}
    params = [flow.p[name] for name in sorted(flow.p)]
    out |= {"w." + name: p.detach().clone() for name, p in flow.p.items()}
    if adamax:
        optimiser = Adamax(params, steps_per_epoch=4, warmup_epochs=2)
    else:
        optimiser = torch.optim.Adam(params, lr=LR, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for t in range(1, STEPS + 1):
        optimiser.zero_grad()
        loss = run(x[t % 2])[0]
        loss.backward()
        if t == 1:
            out |= {"g." + name: p.grad.clone() for name, p in flow.p.items()}
        losses.append(loss.detach())
        optimiser.step()
    out |= {"f." + name: p.detach().clone() for name, p in flow.p.items()}
    out["losses"] = torch.stack(losses)
    out["eval"] = run(x[0])[0].detach().reshape(1)
    save_file({k: v.contiguous() for k, v in out.items()}, path)
    print(path, len(flow.p), "tensors", float(losses[0]), "->", float(losses[-1]))


def main(folder):
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 6, 6, 3, generator=rng)
    mu = torch.rand(3, 6, 6, 3, generator=rng)
    log_sigma = torch.randn(3, 6, 6, 3, generator=rng) * 0.2 - 1
    flow = Flow(2)
    run = flow_layer(flow, 3, 5, mu, log_sigma)
    extra = {"mu": mu, "log_sigma": log_sigma}
    record(f"{folder}/flow_layer.safetensors", flow, run, x, extra)
    flow = Flow(6, plain=True)
    run = flow_layer(flow, 3, 5, mu, log_sigma)
    record(f"{folder}/flow_layer_plain.safetensors", flow, run, x, extra)
    flow = Flow(3)
    x = torch.rand(2, 3, 8, 8, 1, generator=rng) - 0.5
    run = glow(flow, 2, 2, 5, False, True)
    record(f"{folder}/glow_additive.safetensors", flow, run, x, {})
    flow = Flow(4)
    x = torch.rand(2, 3, 4, 4, 3, generator=rng) - 0.5
    run = glow(flow, 1, 2, 5, True, False)
    record(f"{folder}/glow_affine.safetensors", flow, run, x, {})
    flow = Flow(5)
    x = torch.rand(2, 3, 8, 8, 1, generator=rng) - 0.5
    run = glow(flow, 2, 2, 4, True, True)
    record(f"{folder}/glow_official.safetensors", flow, run, x, {}, adamax=True)


if __name__ == "__main__":
    main(sys.argv[1])
