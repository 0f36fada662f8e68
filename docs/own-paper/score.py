"""Measures a fit, and says by which protocol."""

import sys

from curves import read, rmse, write

data_file, model_file, metrics_file = sys.argv[1:]
data, weights = read(data_file), read(model_file)["weights"]


def metric(split):
    points = data[split]
    return {"name": f"rmse-{split}", "label": f"RMSE ({split})", "value": rmse(weights, points),
            "n": len(points), "better": "lower", "protocol": {"noise": "as in training"}}


write(metrics_file, {"metrics": [metric("test"), metric("train")]})
