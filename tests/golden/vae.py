"""Golden numbers for the VAE, flow prior and second-stage VAE, from an independent PyTorch model.

    pip install torch numpy safetensors && python tests/golden/vae.py tests/golden

Writes resnet_3_scales, resnet_4_scales, infogan, prior and second_vae (.safetensors): inputs,
weights before (`w.`) and after 20 Adam steps (`f.`), gradients of the first loss (`g.`), what the
networks give in the first training pass (`o.`, second batch) and then in evaluation mode (`v.`,
first batch), the loss of every step, and the loss in evaluation mode after them. All in f64.
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
HALF_LN_TAU = 0.9189385332046727
STEPS, LR, DECAY = 20, 1e-3, 0.999


class Net:
    """Parameters by name, created on first use; batch-norm statistics beside them."""

    def __init__(self, seed):
        self.rng = torch.Generator().manual_seed(seed)
        self.p, self.buffers, self.training = {}, {}, True

    def get(self, name, *shape, around=0.0):
        if name not in self.p:
            fan = max(1, int(torch.tensor(shape[:-1]).prod())) if len(shape) > 1 else 25
            draw = torch.randn(*shape, generator=self.rng) / fan**0.5
            self.p[name] = (draw + around).requires_grad_()
        return self.p[name]

    def conv(self, x, name, k, out, stride=1, weight=None):
        w = self.get(name + ".weight", k, k, x.shape[1], out) if weight is None else weight
        h = x.shape[2]
        total = max((-(-h // stride) - 1) * stride + k - h, 0)
        lo, hi = total // 2, total - total // 2
        x = F.pad(x, (lo, hi, lo, hi))
        return F.conv2d(x, w.permute(3, 2, 0, 1).contiguous(), self.get(name + ".bias", out), stride)

    def deconv(self, x, name, k, out):
        w = self.get(name + ".weight", k, k, x.shape[1], out).permute(2, 3, 0, 1)
        y = F.conv_transpose2d(x, w, stride=2)
        lo, side = (k - 2) // 2, 2 * x.shape[2]
        return y[:, :, lo : lo + side, lo : lo + side] + self.get(name + ".bias", out)[:, None, None]

    def dense(self, x, name, out, weight=None):
        w = self.get(name + ".weight", x.shape[1], out) if weight is None else weight
        return x @ w + self.get(name + ".bias", out)

    def norm(self, x, name):
        c = x.shape[1]
        scale = self.get(name + ".scale", c, around=1.0)
        shift = self.get(name + ".shift", c)
        mean, var, steps = self.buffers.setdefault(name, [torch.zeros(c), torch.zeros(c), 0])
        if not self.training:
            seen = 1 - DECAY**steps
            return F.batch_norm(x, mean / seen, var / seen, scale, shift, False, 0.0, 1e-5)
        dims = [d for d in range(x.dim()) if d != 1]
        with torch.no_grad():
            m, v = x.mean(dims), x.var(dims, unbiased=False)
            new = [DECAY * mean + (1 - DECAY) * m, DECAY * var + (1 - DECAY) * v, steps + 1]
            self.buffers[name] = new
        return F.batch_norm(x, None, None, scale, shift, True, 0.0, 1e-5)

    def spectral(self, name, *shape):
        w = self.get(name + ".weight", *shape)
        flat = w.reshape(-1, shape[-1])
        if name + ".u" not in self.buffers:
            self.buffers[name + ".u"] = torch.randn(1, shape[-1], generator=self.rng)
            self.buffers[name + ".u0"] = self.buffers[name + ".u"].clone()
        with torch.no_grad():
            v = F.normalize(self.buffers[name + ".u"] @ flat.T, dim=1, eps=1e-30)
            u = F.normalize(v @ flat, dim=1, eps=1e-30)
            if self.training:
                self.buffers[name + ".u"] = u
        return w / (v @ flat @ u.T).squeeze()


def scale(net, x, name, blocks):
    c = x.shape[1]
    for b in range(blocks):
        h, block = x, f"{name}.block{b}"
        for i in (0, 1):
            h = net.conv(F.relu(net.norm(h, f"{block}.norm{i}")), f"{block}.conv{i}", 3, c)
        x = h + net.conv(x, block + ".shortcut", 3, c)
    return x


def resnet_encode(net, y, c):
    e = "vae.encoder."
    h = net.conv(y, e + "input", 3, c["width"])
    for i in range(c["scales"]):
        if i:
            h = net.conv(h, f"{e}down{i - 1}", 3, c["width"] << i, stride=2)
        h = scale(net, h, f"{e}scale{i}", c["blocks"])
    pooled = h.mean((2, 3))
    h = net.dense(F.relu(pooled), e + "dense0", c["dense"])
    h = net.dense(F.relu(h), e + "dense1", c["dense"])
    h = h + net.dense(pooled, e + "shortcut", c["dense"])
    return net.dense(h, e + "mean", c["latent"]), net.dense(h, e + "log_std", c["latent"])


def resnet_decode(net, z, c):
    d = "vae.decoder."
    widths, side = [], c["side"]
    while side > 1:
        widths.append(min(c["width"] << len(widths), c["max_width"]))
        side //= 2
    h = net.dense(z, d + "input", 4 * widths[-1]).reshape(-1, 2, 2, widths[-1]).permute(0, 3, 1, 2)
    for i, width in enumerate(reversed(widths[:-1])):
        h = scale(net, net.deconv(h, f"{d}up{i}", 3, width), f"{d}scale{i}", c["blocks"])
    return net.conv(h, d + "output", 3, c["output"])


def infogan_encode(net, y, c):
    e, w = "vae.encoder.", c["width"]
    h = net.conv(y, e + "conv0", 4, w, 2, net.spectral(e + "conv0", 4, 4, y.shape[1], w))
    h = F.leaky_relu(h, 0.2)
    h = net.conv(h, e + "conv1", 4, 2 * w, 2, net.spectral(e + "conv1", 4, 4, w, 2 * w))
    h = F.leaky_relu(net.norm(h, e + "norm1"), 0.2)
    h = h.permute(0, 2, 3, 1).flatten(1)
    h = net.dense(h, e + "dense0", c["dense"], net.spectral(e + "dense0", h.shape[1], c["dense"]))
    h = F.leaky_relu(net.norm(h, e + "norm2"), 0.2)
    d = c["latent"]
    h = net.dense(h, e + "dense1", 2 * d, net.spectral(e + "dense1", c["dense"], 2 * d))
    return h[:, :d], torch.log(1e-6 + F.softplus(h[:, d:]))


def infogan_decode(net, z, c):
    d, w, q = "vae.decoder.", c["width"], c["side"] // 4
    h = F.relu(net.norm(net.dense(z, d + "dense0", c["dense"]), d + "norm0"))
    h = F.relu(net.norm(net.dense(h, d + "dense1", 2 * w * q * q), d + "norm1"))
    h = h.reshape(-1, q, q, 2 * w).permute(0, 3, 1, 2)
    h = F.relu(net.norm(net.deconv(h, d + "deconv0", 4, w), d + "norm2"))
    return net.deconv(h, d + "deconv1", 4, c["output"])


def flow(net, z, layers, width, bound, prefix="prior."):
    """u and the log-determinant."""
    total, d = torch.zeros(len(z)), z.shape[1]
    for k in range(layers):
        name = f"{prefix}layer{k}."
        if k % 2 == 0:
            if name not in net.buffers:
                net.buffers[name] = torch.randperm(d, generator=net.rng)
            z = z[:, net.buffers[name]]
        else:
            z = torch.cat([z[:, d // 2 :], z[:, : d // 2]], 1)
        a, b = z[:, : d // 2], z[:, d // 2 :]
        h = F.relu(net.dense(a, name + "dense0", width))
        h = net.dense(F.relu(net.dense(h, name + "dense1", width)), name + "dense2", 2 * b.shape[1])
        log_s = bound * torch.tanh(h[:, : b.shape[1]] / bound)
        z = torch.cat([a, b * log_s.exp() + h[:, b.shape[1] :]], 1)
        total = total + log_s.sum(1)
    return z, total


def log_prob(u, log_det):
    return log_det - (0.5 * u**2 + HALF_LN_TAU).sum(1)


def kl_to_normal(mean, log_std):
    q = torch.distributions.Normal(mean, log_std.exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return torch.distributions.kl_divergence(q, p).sum(1)


def vae_terms(net, y, e, c):
    """What the networks give, -ln p(y|z) and the KL divergence, `[n]` each."""
    encode, decode = c["nets"]
    y = y.permute(0, 3, 1, 2)
    mean, log_std = encode(net, y, c)
    z = mean + log_std.exp() * e
    out = decode(net, z, c)
    mu = torch.sigmoid(out[:, :3])
    given = {"mean": mean, "log_std": log_std}
    if c["output"] == 6:
        log_sigma = out[:, 3:].clamp(-7, 2)
        u, log_det = flow(net, z, 3, 6, 2.0)
        kl = -log_prob(u, log_det) - torch.distributions.Normal(mean, log_std.exp()).entropy().sum(1)
        given |= {"u": u, "log_det": log_det}
    else:
        log_sigma = net.get("vae.log_gamma", 1).expand_as(mu)
        kl = kl_to_normal(mean, log_std)
    given |= {"mu": mu.permute(0, 2, 3, 1), "log_sigma": log_sigma.permute(0, 2, 3, 1)}
    density = torch.distributions.Normal(mu, log_sigma.exp()).log_prob(y).sum((1, 2, 3))
    return given, -density, kl


def vae_loss(net, y, e, c):
    given, reconstruction, kl = vae_terms(net, y, e, c)
    return (reconstruction + kl).mean(), given


def prior_loss(net, z, e, c):
    u, log_det = flow(net, z, 4, 6, 2.0, "")
    return -log_prob(u, log_det).mean(), {"u": u, "log_det": log_det}


def second_loss(net, z, e, c):
    def stack(x, name):
        h = x
        for i in range(2):
            h = F.relu(net.dense(h, f"{name}.dense{i}", c["width"]))
        return torch.cat([h, x], 1)

    d = z.shape[1]
    h = stack(z, "encoder")
    mean, log_std = net.dense(h, "encoder.mean", d), net.dense(h, "encoder.log_std", d)
    u = mean + log_std.exp() * e
    back = net.dense(stack(u, "decoder"), "decoder.output", d)
    sigma = net.get("log_gamma", 1).exp()
    density = torch.distributions.Normal(back, sigma).log_prob(z).sum(1)
    given = {"mean": mean, "log_std": log_std, "back": back}
    return (kl_to_normal(mean, log_std) - density).mean(), given


def adam_tensorflow(params):
    m, v = ([torch.zeros_like(p) for p in params] for _ in range(2))

    def step(t):
        with torch.no_grad():
            for p, a, b in zip(params, m, v):
                a.mul_(0.9).add_(0.1 * p.grad)
                b.mul_(0.999).add_(0.001 * p.grad**2)
                rate = LR * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t)
                p.sub_(rate * a / (b.sqrt() + 1e-8))

    return step


def golden(loss, config, x, e, seed, tensorflow):
    net = Net(seed)
    loss(net, x[0], e[0], config)  # creates every tensor
    for name, value in net.buffers.items():
        if isinstance(value, list):
            net.buffers[name] = [torch.zeros_like(value[0]), torch.zeros_like(value[1]), 0]
        elif name.endswith(".u"):
            net.buffers[name] = net.buffers[name + "0"].clone()
    out = {"x": x, "e": e}
    for name, value in net.buffers.items():
        if name.endswith(".u"):
            out["b." + name] = value.clone()
        elif name.endswith(".") and torch.is_tensor(value):
            out["b." + name + "permutation"] = value.to(torch.float64)
    out |= {"w." + n: p.detach().clone() for n, p in net.p.items()}
    params = list(net.p.values())
    torch_adam = torch.optim.Adam(params, LR, (0.9, 0.999), 1e-8)
    tf_adam = adam_tensorflow(params)
    losses = []
    for t in range(1, STEPS + 1):
        torch_adam.zero_grad()
        value, given = loss(net, x[t % 2], e[t % 2], config)
        value.backward()
        losses.append(value.detach())
        if t == 1:
            out |= {"g." + n: p.grad.clone() for n, p in net.p.items()}
            out |= {"o." + n: v.detach().clone() for n, v in given.items()}
            net.training = False
            _, given = loss(net, x[0], e[0], config)
            out |= {"v." + n: v.detach().clone() for n, v in given.items()}
            net.training = True
        tf_adam(t) if tensorflow else torch_adam.step()
    net.training = False
    out["losses"] = torch.stack(losses)
    out["eval"] = loss(net, x[0], e[0], config)[0].detach().reshape(1)
    out |= {"f." + n: p.detach().clone() for n, p in net.p.items()}
    return {k: v.contiguous() for k, v in out.items()}


def main(folder):
    rng = torch.Generator().manual_seed(0)
    y = torch.rand(2, 3, 8, 8, 3, generator=rng)
    big = torch.rand(2, 3, 16, 16, 3, generator=rng)
    e = torch.randn(2, 3, 4, generator=rng)
    resnet = dict(dense=5, latent=4, max_width=3, output=6, nets=(resnet_encode, resnet_decode))
    # CIFAR-10's depth, with two blocks for each scale; CelebA's depth.
    three = dict(resnet, side=8, width=2, scales=3, blocks=2)
    four = dict(resnet, side=16, width=1, scales=4, blocks=1)
    infogan = dict(side=8, width=2, dense=5, latent=4, output=3)
    infogan["nets"] = (infogan_encode, infogan_decode)
    z = torch.randn(2, 7, 4, generator=rng)
    e2 = torch.randn(2, 7, 4, generator=rng)
    cases = {
        "resnet_3_scales": golden(vae_loss, three, y, e, 1, False),
        "resnet_4_scales": golden(vae_loss, four, big, e, 5, False),
        "infogan": golden(vae_loss, infogan, y, e, 2, True),
        "prior": golden(prior_loss, {}, z, e2, 4, False),
        "second_vae": golden(second_loss, dict(width=6), z, e2, 3, True),
    }
    for name, tensors in cases.items():
        save_file(tensors, f"{folder}/{name}.safetensors")
        print(name, len(tensors), "tensors, first loss", float(tensors["losses"][0]))


if __name__ == "__main__":
    main(sys.argv[1])
