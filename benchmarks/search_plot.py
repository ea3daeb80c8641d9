"""Latency, recall and size against rows, out of the result of `benchmarks/search.py`.

python benchmarks/search_plot.py benchmarks/results/search.json docs/search-at-scale.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt


def main(source: str, target: str) -> None:
    matplotlib.rcParams["svg.hashsalt"] = "search"  # the same figures give the same file
    held = json.loads(Path(source).read_text(encoding="utf-8"))["rows"]
    rows = sorted((int(n) for n, told in held.items() if "ask" in told and "tune" in told))
    told = [held[str(n)] for n in rows]
    figure, (times, found, sizes) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for name, label in (("search", "top 10"), ("exact", "every row")):
        times.plot(rows, [one["ask"][name]["p50_ms"] for one in told], "o-", label=label)
    for name, label in (("filtered_anew", "new 1 % filter"), ("filtered", "the same again")):
        times.plot(rows, [one["ask"][name]["hundredth"]["p50_ms"] for one in told], "o-", label=label)
    times.set(title="median of a query, ms", yscale="log")
    for name, label in (("recall", "planted neighbours"), ("recall_bare", "none planted")):
        found.plot(rows, [one["ask"]["search"][name] for one in told], "o-", label=label)
    found.set(title="recall of the ten nearest", ylim=(0.5, 1.02))
    for name, label in (("table", "table"), ("copy", "copy of the vectors"), ("indexes", "indexes")):
        sizes.plot(rows, [one["tune"]["disk_mb"][name] for one in told], "o-", label=label)
    sizes.set(title="disk, MB", yscale="log")
    for axes in (times, found, sizes):
        axes.set(xscale="log", xlabel="rows")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:3])
