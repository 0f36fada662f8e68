"""Fits a polynomial by gradient descent and keeps a history of the loss."""

import json
import sys

from curves import basis, read, rmse, write

params_file, data_file, model_file, history_file = sys.argv[1:]
params, data = read(params_file), read(data_file)
rows = [(basis(x, params["degree"]), y) for x, y in data["train"]]
weights = [0.0] * (params["degree"] + 1)

with open(history_file, "w", encoding="utf-8") as history:
    for step in range(1, params["steps"] + 1):
        gradient = [params["decay"] * w for w in weights]
        for row, y in rows:
            error = sum(w * t for w, t in zip(weights, row)) - y
            for i, t in enumerate(row):
                gradient[i] += error * t / len(rows)
        weights = [w - params["lr"] * g for w, g in zip(weights, gradient)]
        if step % (params["steps"] // 40) == 0:
            seen = {name: {"RMSE": rmse(weights, data[split])}
                    for name, split in [("train", "train"), ("valid", "test")]}
            history.write(json.dumps({"step": step, "lr": params["lr"], **seen}) + "\n")

write(model_file, {"weights": weights})
