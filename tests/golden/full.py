"""Golden numbers for phase 2: the flow layer on a frozen VAE with a flow prior, in PyTorch.

    pip install torch numpy safetensors && python tests/golden/full.py tests/golden

Writes full.safetensors: images `x` (0 to 255), dequantisation noise `u`, standard normals `e` for
three draws of z; the VAE's and the prior's tensors (`a.`) with batch-norm statistics of one training
pass; the flow layer's before (`w.`) and after 20 Adam steps (`f.`), gradients of the first loss
(`g.`), `losses`, and before training, in bits per dimension and for each image, the one-draw bound
(`one`) and the importance-weighted bound of three draws (`three`). All in f64.
"""

import sys

import flows
import torch
import vae
from safetensors.torch import save_file

STEPS, LR, DRAWS = 20, 1e-3, 3


def main(folder):
    rng = torch.Generator().manual_seed(11)
    x = torch.randint(0, 256, (3, 8, 8, 3), generator=rng).double()
    u = torch.rand(3, 8, 8, 3, generator=rng)
    e = torch.randn(DRAWS, 3, 4, generator=rng)
    y = (x + u) / 256
    net = vae.Net(12)
    config = dict(side=8, width=2, scales=2, blocks=1, dense=5, latent=4, max_width=3, output=6)
    config["nets"] = (vae.resnet_encode, vae.resnet_decode)
    vae.vae_loss(net, y, e[0], config)
    net.training = False
    layer = flows.Flow(13)

    def through():
        h, log_det = y.permute(0, 3, 1, 2), 0
        for k in range(2):
            h, change = layer.step(h, f"step{k}", 5, False)
            log_det = log_det + change
        return flows.nhwc(h), log_det.expand(len(y))

    def terms(e):
        """-ln p(y|z), the one-draw KL divergence, ln q(z|y)."""
        with torch.no_grad():
            given, _, kl = vae.vae_terms(net, y, e, config)
        base, log_det = through()
        density = flows.log_normal(base, given["mu"], given["log_sigma"]) + log_det
        z = given["mean"] + given["log_std"].exp() * e
        log_q = torch.distributions.Normal(given["mean"], given["log_std"].exp()).log_prob(z).sum(1)
        log_p = vae.log_prob(given["u"], given["log_det"])
        return -density, kl, density + log_p - log_q

    def bits(log_density):
        return (8 - log_density / (flows.LN_2 * 192)).detach()

    out = {"x": x, "u": u, "e": e}
    out |= {"a." + n: p.detach().clone() for n, p in net.p.items()}
    for name, value in net.buffers.items():
        if isinstance(value, list):
            mean, var, steps = value
            out |= {f"a.{name}.moving_mean": mean, f"a.{name}.moving_variance": var}
            out[f"a.{name}.steps"] = torch.tensor([float(steps)])
        else:
            out["a." + name + "permutation"] = value.double()
    draws = [terms(noise) for noise in e]
    out["one"] = bits(-(draws[0][0] + draws[0][1]))
    weights = torch.stack([w for _, _, w in draws])
    out["three"] = bits(torch.logsumexp(weights, 0) - torch.tensor(float(DRAWS)).log())
    params = [layer.p[name] for name in sorted(layer.p)]
    out |= {"w." + n: p.detach().clone() for n, p in layer.p.items()}
    optimiser = torch.optim.Adam(params, LR, (0.9, 0.999), 1e-8)
    losses = []
    for t in range(STEPS):
        optimiser.zero_grad()
        loss = terms(e[t % DRAWS])[0].mean()
        loss.backward()
        if t == 0:
            out |= {"g." + n: p.grad.clone() for n, p in layer.p.items()}
        losses.append(loss.detach())
        optimiser.step()
    out["losses"] = torch.stack(losses)
    out |= {"f." + n: p.detach().clone() for n, p in layer.p.items()}
    save_file({k: v.contiguous() for k, v in out.items()}, f"{folder}/full.safetensors")
    print("full", len(out), "tensors, first loss", float(losses[0]), "->", float(losses[-1]))


if __name__ == "__main__":
    main(sys.argv[1])
