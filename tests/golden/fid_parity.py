"""What `repro fid` measures of two folders, and what three other tools do, with the same made-up
Inception weights.

    pip install torch torchvision numpy scipy pillow blake3 pytorch-fid clean-fid torch-fidelity
    python3 fid_parity.py REPRO REAL FAKE [pytorch-fid] [tf-legacy] [clean]

REPRO is the binary; the folders hold pictures, of one size in each. Compares `--resize pytorch-fid`
with pytorch-fid, `--resize tf-legacy` with torch-fidelity, and `--resize clean` with clean-fid's
resizing and distance (its network cannot be given other weights, so pytorch-fid's stands in). With
torch-fidelity also the kernel distance, every subset being the whole of the smaller set, and
precision and recall. The official weights are not needed. Fails if a distance differs by more than 1e-4 of
itself, or a share by more than one image.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from cleanfid.fid import frechet_distance as clean_distance
from cleanfid.resize import build_resizer
from PIL import Image
from pytorch_fid import fid_score
from torch_fidelity import metric_fid, metric_kid, metric_prc
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

import inception as golden

BATCH = 20
NEIGHBOURS = 3


def paths(folder):
    return sorted(p for p in pathlib.Path(folder).iterdir() if p.suffix in (".png", ".jpg"))


def features(folder, each):
    pictures = [numpy.asarray(Image.open(p).convert("RGB")) for p in paths(folder)]
    with torch.no_grad():
        parts = [each(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH)]
    return torch.cat(parts).double().numpy()


def moments(x):
    return x.mean(0), numpy.cov(x, rowvar=False)


# Each tool: the statistics of the first folder, the distance, and other numbers by name.


def by_pytorch_fid(net, weights, folders):
    model = golden.wrapped(net)
    sides = [
        fid_score.calculate_activation_statistics(paths(f), model, BATCH, 2048, "cpu", 0)
        for f in folders
    ]
    return sides[0], fid_score.calculate_frechet_distance(*sides[0], *sides[1]), {}


def by_torch_fidelity(net, weights, folders):
    model = FeatureExtractorInceptionV3("made-up", ["2048"], str(weights))

    def each(pictures):
        return model(torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2))[0]

    real, fake = (features(f, each) for f in folders)
    sides = [moments(real), moments(fake)]
    both = [{"mu": mu, "sigma": sigma} for mu, sigma in sides]
    value = metric_fid.fid_statistics_to_metric(*both, verbose=False)
    # In f64, so that what differs is not how a small difference of large sums is rounded.
    real, fake = torch.from_numpy(real), torch.from_numpy(fake)
    subsets = {"kid_subsets": 1, "kid_subset_size": min(len(real), len(fake))}
    kid = metric_kid.kid_features_to_metric(real, fake, **subsets, verbose=False)
    # It wants the generated images first.
    shares = metric_prc.prc_features_to_metric(fake, real, prc_neighborhood=NEIGHBOURS, verbose=False)
    others = {"kid": kid[metric_kid.KEY_METRIC_KID_MEAN]}
    others |= {name: shares[name] for name in ("precision", "recall")}
    return sides[0], value[metric_fid.KEY_METRIC_FID], others


def by_clean_fid(net, weights, folders):
    model = golden.wrapped(net)
    model.resize_input = model.normalize_input = False
    resize = build_resizer("clean")

    def each(pictures):
        x = numpy.stack([resize(p) for p in pictures]).transpose(0, 3, 1, 2)
        return model((torch.from_numpy(x) - 128) / 128)[0].flatten(1)

    sides = [moments(features(f, each)) for f in folders]
    return sides[0], clean_distance(*sides[0], *sides[1]), {}


def relative(ours, theirs):
    return numpy.abs(ours - theirs).max() / numpy.abs(theirs).max()


def main(repro, real, fake, *wanted):
    net = golden.network()
    fewest = min(len(paths(real)), len(paths(fake)))
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        weights, saved = pathlib.Path(scratch) / "made-up.pth", pathlib.Path(scratch) / "a.npz"
        torch.save(net.state_dict(), weights)
        tools = {"pytorch-fid": by_pytorch_fid, "tf-legacy": by_torch_fidelity, "clean": by_clean_fid}
        for resize, tool in tools.items():
            if wanted and resize not in wanted:
                continue
            command = [repro, "fid", real, fake, "--weights", weights, "--resize", resize]
            command += ["--json", "--save", saved]
            command += [f"--kid={fewest}", f"--precision-recall={NEIGHBOURS}"]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            ours, stats = json.loads(answer), numpy.load(saved)
            (mu, sigma), theirs, others = tool(net, weights, (real, fake))
            gap = abs(ours["value"] - theirs) / theirs
            failed |= gap > 1e-4
            print(
                f"{resize:12} repro {ours['value']:.9g}  other {theirs:.9g}  relative differences: "
                f"distance {gap:.1e}, means {relative(stats['mu'], mu):.1e}, "
                f"covariances {relative(stats['sigma'], sigma):.1e}",
                flush=True,
            )
            found = {metric["name"]: metric["value"] for metric in ours["others"]}
            for name, theirs in others.items():
                gap = abs(found[name] - theirs)
                failed |= gap > (1e-4 * abs(theirs) if name == "kid" else 1.5 / fewest)
                print(f"{'':12} {name}: repro {found[name]:.9g}  other {theirs:.9g}  apart {gap:.1e}")
    print(ours["label"])
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
