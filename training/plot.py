"""Draws the training log's curves: models/builtin/training.png.

    python plot.py
"""

import matplotlib

import paths
from data import read_lines

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


def main() -> None:
    lines = read_lines(paths.LOG)
    # Each stage, and each run with a schedule of its own, counts its seconds from nought.
    offset, before, elapsed = 0.0, 0.0, []
    for line in lines:
        if line["seconds"] < before:
            offset += before
        before = line["seconds"]
        elapsed.append(offset + before)
    static = max((at for at, line in zip(elapsed, lines, strict=True) if line["stage"] == "static"), default=0.0)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    curves: dict[str, list] = {}
    for at, line in zip(elapsed, lines, strict=True):
        minutes = at / 60
        for name, value in line.get("validation", line).items():
            if isinstance(value, float) and name != "seconds":
                curves.setdefault(name, []).append((minutes, value))
    for name, points in curves.items():
        axes = right if name.endswith("_at_10") else left if name in ("distillation", "distance") else None
        if axes:
            label = {"distillation": "training", "distance": "validation"}.get(name, name.removesuffix("_at_10"))
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    for axes, title in ((left, "1 - cosine to the teacher"), (right, "recall@10 on validation texts")):
        axes.axvline(static / 60, color="grey", linewidth=0.5)
        axes.set(title=title, xlabel="minutes of training (before the line: token embeddings alone)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(paths.BUILTIN / "training.png", dpi=110)


if __name__ == "__main__":
    main()
