"""Writes the statistics of three features as Python programs pickle them, with what may lie beside them. Needs numpy 2."""
import pathlib
import pickle

import numpy

HERE = pathlib.Path(__file__).parent

statistics = {
    "mu": numpy.array([3.0, 0.0, 4.0]),
    "sigma": numpy.asfortranarray([[2.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 3.0]]),
    "n": 50000,
    "loss": numpy.float64(0.5),
    "names": ["a", "b"],
    "labels": numpy.array(["x"], dtype=object),
    "half": numpy.array([1.0], dtype=">f2"),
}
numpy.save(HERE / "statistics.npy", statistics)
numpy.savez(HERE / "statistics_inside.npz", stats=statistics)
# Protocol 2 has no bytes of its own, and numpy's modules had other names before 2.0.
old = pickle.dumps(statistics, 2).replace(b"numpy._core", b"numpy.core")
(HERE / "statistics_old.npy").write_bytes(old)
(HERE / "statistics_new.npy").write_bytes(pickle.dumps(statistics, 5))
