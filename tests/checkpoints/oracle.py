"""The oracles of the reference implementations: weights from the rule of their README, inputs, stored outputs."""

from __future__ import annotations

import json
import math
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch


def value(entry: dict, seed: int) -> np.ndarray:
    """The tensor that the rule gives to an entry of kind "random" or "constant"."""
    if entry["kind"] == "constant":
        return np.broadcast_to(np.asarray(entry["value"], np.float32), entry["shape"]).copy()
    random = np.random.RandomState((zlib.crc32(entry["name"].encode()) + seed) % 2**32)
    z = random.standard_normal(tuple(entry["shape"])).astype(np.float32)
    if "special" in entry:
        return np.float32(entry["special"]["offset"]) + np.float32(entry["special"]["scale"]) * z
    if entry["name"].endswith("running_var"):
        return (1 + 0.1 * np.abs(z)).astype(np.float32)
    if len(entry["shape"]) == 1:
        return ((1 + 0.1 * z) if entry["name"].endswith(".weight") else 0.05 * z).astype(np.float32)
    scale = math.sqrt(math.prod(entry["shape"][1:]))
    return z * np.float32(entry["gain"] / scale) if "gain" in entry else z / np.float32(scale)


def wave(index: int, rate_hz: int, samples: int, seed: int) -> np.ndarray:
    """A chirp with decaying noise bursts, float32 [samples], peak 0.9."""
    random = np.random.RandomState((zlib.crc32(f"wave/{rate_hz}/{samples}/{index}".encode()) + seed) % 2**32)
    time = np.arange(samples) / rate_hz
    duration = samples / rate_hz
    low, high = random.uniform(80, 400), random.uniform(0.2, 0.45) * rate_hz
    x = 0.3 * np.sin(2 * np.pi * (low * time + (high - low) * time**2 / (2 * duration)))
    for _ in range(max(2, int(2 * duration))):
        start = random.randint(0, samples)
        decay, loudness = random.uniform(0.02, 0.2), random.uniform(0.1, 0.6)
        fade = np.exp(-np.arange(samples - start) / rate_hz / decay)
        x[start:] += loudness * random.standard_normal(samples - start) * fade
    return (0.9 * x / np.abs(x).max()).astype(np.float32)


class Oracle:
    """One folder of the oracles."""

    def __init__(self, folder: Path) -> None:
        self.layout: dict = json.loads((folder / "layout.json").read_text())
        self.inputs: dict = json.loads((folder / "inputs.json").read_text())
        self.seed: int = self.layout["seed"]
        self.config: dict = self.layout["config"]
        self._expected = np.load(folder / "expected.npz")

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The state dict without the tensors that a model computes itself."""
        entries = {e["name"]: e for e in self.layout["tensors"]}
        made = {
            name: torch.from_numpy(np.asarray(value(e, self.seed)))
            for name, e in entries.items()
            if e["kind"] in ("random", "constant")
        }
        tied = {name: e["tied_to"] for name, e in entries.items() if e["kind"] == "tied"}
        return {n: made[tied.get(n, n)] for n in entries if tied.get(n, n) in made}

    def computed(self, kind: str = "computed") -> dict[str, list[int]]:
        """Name -> shape of the tensors that a file may hold although a model computes them."""
        return {e["name"]: e["shape"] for e in self.layout["tensors"] if e["kind"] == kind}

    def waves(self, key: str = "waves") -> list[tuple[np.ndarray, int]]:
        """The waveforms, as `Clap.embed_audio` takes them: (samples, rate)."""
        return [
            (wave(w["index"], w["sample_rate"], w["samples"], self.seed), w["sample_rate"]) for w in self.inputs[key]
        ]

    def expected(self, key: str) -> np.ndarray:
        return self._expected[key]

    def check(self, found: Any, key: str, *, atol: float) -> None:
        """Compare with the stored array, whole or by its stored subset; prints the error it sees."""
        found = found.detach().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        if key in self._expected:
            wanted = self._expected[key]
            assert found.shape == wanted.shape, (key, found.shape, wanted.shape)
        else:
            described = self.layout["expected"][key]
            assert list(found.shape) == described["full_shape"], (key, found.shape, described["full_shape"])
            found, wanted = found.reshape(-1)[:: described["subset_stride"]], self._expected[f"{key}.subset"]
        error = np.abs(found.astype(np.float64) - wanted).max()
        print(f"{key}: max abs error {error:.2e}, max abs value {np.abs(wanted).max():.2e}")
        assert error <= atol, f"{key}: max abs error {error:.3e} > {atol:.1e}"


def close_embeddings(found_ND: np.ndarray, wanted_ND: np.ndarray) -> None:
    """The bar of parity: cosine >= 0.99999 and relative error <= 1e-4, row by row, after unit norm."""
    wanted_ND = wanted_ND / np.linalg.norm(wanted_ND, axis=1, keepdims=True)
    found_ND = found_ND / np.linalg.norm(found_ND, axis=1, keepdims=True)
    cosine = (found_ND.astype(np.float64) * wanted_ND).sum(1)
    relative = np.linalg.norm(found_ND - wanted_ND, axis=1)
    print(f"lowest cosine {cosine.min():.8f}, largest relative error {relative.max():.2e}")
    assert cosine.min() >= 0.99999 and relative.max() <= 1e-4, (cosine, relative)
