"""FID of two folders by `repro fid` and by pytorch-fid, with the same made-up Inception weights.

    python3 fid_parity.py REPRO FOLDER_A FOLDER_B

REPRO is the binary; the folders hold pictures of one size. Needs what inception.py needs, and
scipy.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from pytorch_fid import fid_score

import inception as golden


def main(repro, a, b):
    net = golden.network()
    with tempfile.TemporaryDirectory() as scratch:
        weights = pathlib.Path(scratch) / "made-up.pth"
        torch.save(net.state_dict(), weights)
        command = [repro, "fid", a, b, "--weights", weights, "--resize", "pytorch-fid", "--json"]
        ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    model = golden.wrapped(net)
    sides = [
        fid_score.calculate_activation_statistics(
            sorted(pathlib.Path(folder).glob("*.*")), model, 50, 2048, "cpu", 1
        )
        for folder in (a, b)
    ]
    theirs = fid_score.calculate_frechet_distance(*sides[0], *sides[1])
    gap = abs(ours["value"] - theirs) / theirs
    print(f"repro {ours['value']:.9g}  pytorch-fid {theirs:.9g}  relative difference {gap:.2e}")
    print(ours["label"])
    return gap > 1e-4


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
