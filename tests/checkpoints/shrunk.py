"""Small files in the layout of an oracle: the same names, every large size divided by eight, random values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

# Sizes that are no widths: rows of a table of relative positions, frequencies of a transform.
_KEPT = (225, 513)


def shrunk(folder: Path, *, only: Iterable[str] = ("",), seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of the layout whose names begin with one of `only`, without those that a model computes itself."""
    generator = torch.Generator().manual_seed(seed)
    entries = json.loads((folder / "layout.json").read_text())["tensors"]
    tensors = {}
    for entry in entries:
        if entry["kind"] == "computed" or not entry["name"].startswith(tuple(only)):
            continue
        shape = [size // 8 if size >= 96 and size not in _KEPT else size for size in entry["shape"]]
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            value = value / value[0].numel() ** 0.5
        elif entry["name"].endswith("running_var"):
            value = 400 + value.abs() if "bn0" in entry["name"] else 1 + 0.1 * value.abs()
        elif entry["name"].endswith(".weight"):
            value = 1 + 0.1 * value
        elif "bn0.running_mean" in entry["name"]:
            value = value - 30
        tensors[entry["name"]] = value
    return tensors
