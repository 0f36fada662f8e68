"""Golden features of Inception with pytorch-fid's network: writes inception.json.

The weights follow from their names through the Philox generator of this project (stages/nn/noise.rs), so that
no file of 95 MB is needed: `state()` here and in stages/models/inception.rs make the same numbers.
Needs torch, pytorch-fid, numpy, pillow, blake3.

    python3 inception.py                 writes inception.json
    python3 inception.py state FILE.pth  saves the weights, for `repro fid --weights FILE.pth`
"""
import json
import pathlib
import sys

import blake3
import numpy
import torch
from PIL import Image
from pytorch_fid import inception

HERE = pathlib.Path(__file__).resolve().parent
EMBEDDED = HERE.parents[1] / "stages" / "data" / "embedded"


def philox(counter, key):
    """Philox 4x32-10 over rows of counters."""
    c = [counter[:, i].astype(numpy.uint64) for i in range(4)]
    k = [numpy.uint64(k) for k in key]
    mask = numpy.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * numpy.uint64(0xD2511F53), c[2] * numpy.uint64(0xCD9E8D57)
        c = [(b >> numpy.uint64(32)) ^ c[1] ^ k[0], b & mask, (a >> numpy.uint64(32)) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + numpy.uint64(0x9E3779B9)) & mask, (k[1] + numpy.uint64(0xBB67AE85)) & mask]
    return numpy.stack(c, 1)


def words(purpose, n):
    digest = blake3.blake3((0).to_bytes(8, "little") + purpose.encode()).digest()
    key = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4)]
    counter = numpy.zeros(((n + 3) // 4, 4), numpy.uint64)
    counter[:, 0] = numpy.arange(len(counter))
    return philox(counter, key).reshape(-1)[:n]


def draw(name, n):
    return (words(name, n) >> numpy.uint64(24)).astype(numpy.float32) / numpy.float32(128) - numpy.float32(1)


def network():
    # fid_inception_v3() without its download of the official weights.
    net = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    net.Mixed_5b = inception.FIDInceptionA(192, pool_features=32)
    net.Mixed_5c = inception.FIDInceptionA(256, pool_features=64)
    net.Mixed_5d = inception.FIDInceptionA(288, pool_features=64)
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(net, f"Mixed_{name}", inception.FIDInceptionC(768, channels_7x7=c))
    net.Mixed_7b = inception.FIDInceptionE_1(1280)
    net.Mixed_7c = inception.FIDInceptionE_2(2048)
    state = net.state_dict()
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        if name.startswith("fc") or name.startswith("Aux") or part == "num_batches_tracked":
            continue
        values = draw(name, tensor.numel())
        if name.endswith("conv.weight"):
            fan = numpy.float32(tensor[0].numel())
            values = values * numpy.sqrt(numpy.float32(6) / fan)
        else:
            base = 1.0 if part in ("weight", "running_var") else 0.0
            values = numpy.float32(base) + numpy.float32(0.1) * values
        tensor.copy_(torch.from_numpy(values.reshape(tensor.shape)))
    net.load_state_dict(state)
    return net.eval()


def wrapped(net):
    """pytorch-fid's own InceptionV3 around `net`: its resizing, range and pooling."""
    original = inception.fid_inception_v3
    inception.fid_inception_v3 = lambda: net
    try:
        return inception.InceptionV3([3]).eval()
    finally:
        inception.fid_inception_v3 = original


def images():
    """The first two embedded test images, grey as three channels."""
    atlas = numpy.asarray(Image.open(EMBEDDED / "test.png"))
    grey = numpy.stack([atlas[:28, :28], atlas[:28, 28:56]])
    return numpy.repeat(grey[:, None], 3, 1)


def tf_legacy(batch, side=299):
    """TensorFlow 1's bilinear resize, corners at the origin, written out in numpy."""
    def taps(size):
        source = numpy.arange(side, dtype=numpy.float32) * numpy.float32(size / side)
        low = numpy.floor(source).astype(int)
        return low, numpy.minimum(low + 1, size - 1), (source - low).astype(numpy.float32)

    x = batch.astype(numpy.float32)
    low, high, f = taps(x.shape[3])
    x = x[..., low] + (x[..., high] - x[..., low]) * f
    low, high, f = taps(x.shape[2])
    return x[:, :, low] + (x[:, :, high] - x[:, :, low]) * f[:, None]


def main():
    net = network()
    if sys.argv[1:2] == ["state"]:
        torch.save(net.state_dict(), sys.argv[2])
        return
    model = wrapped(net)
    with torch.no_grad():
        batch = images()
        features = {"pytorch-fid": model(torch.from_numpy(batch).float() / 255)[0]}
        model.resize_input = False
        model.normalize_input = False
        legacy = torch.from_numpy((tf_legacy(batch) - 128) / 128)
        features["tf-legacy"] = model(legacy)[0]
    golden = {k: v.squeeze(3).squeeze(2)[:, ::16].tolist() for k, v in features.items()}
    (HERE / "inception.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
