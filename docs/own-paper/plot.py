"""Draws fits over their training points as SVG."""

import sys

from curves import predict, read

figure_file, data_file, *model_files = sys.argv[1:]
names, colours = ["degree 3", "degree 11", "degree 11, decay"], ["#0b57a4", "#c2410c", "#1a7f46"]


def px(x):
    return 20 + 200 * (x + 1)


def py(y):
    return 150 - 70 * max(-2.0, min(2.0, y))


lines = []
for model, name, colour, at in zip(model_files, names, colours, range(3)):
    weights = read(model)["weights"]
    path = " ".join(f"{px(x / 100):.1f},{py(predict(weights, x / 100)):.1f}" for x in range(-100, 101))
    lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
    lines.append(f'<text x="430" y="{40 + 20 * at}" fill="{colour}">{name}</text>')
for x, y in read(data_file)["train"]:
    lines.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5" fill="#444"/>')

with open(figure_file, "w", encoding="utf-8") as file:
    file.write('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 300" width="560" height="300" '
               'font-family="sans-serif" font-size="13"><rect width="560" height="300" fill="#fff"/>'
               + "".join(lines) + "</svg>\n")
