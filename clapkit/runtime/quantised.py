"""Linear layers in 8-bit integers: what their inputs span is measured once, and fixed.

Weights are symmetric with a scale for each output, inputs have one scale and one zero point for the whole tensor. Both
are constants: the same clip gives the same numbers in any batch. On a processor with VNNI instructions such a layer is
about twice as quick as in bf16.

The integer product is the operator of oneDNN that torch's own compiler uses.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.files import atomic_file

# Name of a linear layer in its model -> the least and the greatest number of its input.
Ranges = Mapping[str, tuple[float, float]]
_LEVELS = 255
_LEAST_SPAN = 1e-6
LEAST_WEIGHTS = 2**12  # smaller layers gain nothing


class Grid:
    """The 256 numbers scale * (k - zero), k = 0 ... 255, that span `low` to `high` and have 0 among them."""

    def __init__(self, low: float, high: float) -> None:
        low, high = min(low, 0.0), max(high, 0.0)
        self.scale = max(high - low, _LEAST_SPAN) / _LEVELS
        self.zero = min(max(round(-low / self.scale), 0), _LEVELS)

    def nearest(self, x: Tensor) -> Tensor:
        """uint8 indices k of `x`; what lies outside the span becomes its end."""
        return _to_indices(x.float() * (1.0 / self.scale) + (self.zero + 0.5))


def _to_indices(positions: Tensor) -> Tensor:
    """uint8 of positions that are half a step too high (so that cutting off rounds); changes `positions`."""
    # By way of int16: from float to uint8 torch goes number by number, which takes as long as the product itself.
    return positions.clamp_(0.0, float(_LEVELS)).to(torch.int16).to(torch.uint8)


class QuantisedNorm(nn.Module):
    """A LayerNorm that gives indices of a grid: the grid's scale and zero point are part of its weight and bias."""

    def __init__(self, norm: nn.LayerNorm, grid: Grid) -> None:
        super().__init__()
        self.shape, self.eps = norm.normalized_shape, norm.eps
        weight = torch.ones(self.shape) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros(self.shape) if norm.bias is None else norm.bias.detach()
        self.weight, self.bias = weight / grid.scale, bias / grid.scale + (grid.zero + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return _to_indices(F.layer_norm(x.float(), self.shape, self.weight, self.bias, self.eps))


class QuantisedLinear(nn.Module):
    """A linear layer on indices of a grid; other input is brought onto the grid first.

    dtype    of the result
    gelu     apply GELU to the result
    result   a grid that the result is given in, as indices, in place of `dtype`
    """

    def __init__(
        self, linear: nn.Linear, grid: Grid, *, dtype: torch.dtype, gelu: bool = False, result: Grid | None = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.grid, self.result, self.gelu = grid, result, gelu
        self.dtype = dtype if result is None else torch.uint8
        indices_OI, self.scale_O = quantise_weight(linear.weight.detach())
        self.packed = torch.ops.onednn.qlinear_prepack(indices_OI, None)
        self.zero_O = torch.zeros(self.out_features, dtype=torch.int32)
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        indices = x if x.dtype == torch.uint8 else self.grid.nearest(x)
        result = self.result
        return torch.ops.onednn.qlinear_pointwise(
            indices,
            self.grid.scale,
            self.grid.zero,
            self.packed,
            self.scale_O,
            self.zero_O,
            self.bias,
            1.0 if result is None else result.scale,
            0 if result is None else result.zero,
            self.dtype,
            "gelu" if self.gelu else "none",
            [],
            "none" if self.gelu else "",
        )


def quantise_weight(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """int8 indices -127 ... 127 of a weight, and the scale of each output."""
    scale_O = weight_OI.float().abs().amax(dim=1).clamp_min(_LEAST_SPAN / _LEVELS) / 127.0
    return (weight_OI.float() / scale_O[:, None]).round().clamp(-127, 127).to(torch.int8), scale_O


@cache
def can_quantise() -> bool:
    """Whether the operator is there and agrees with the plain layer."""
    linear = nn.utils.skip_init(nn.Linear, 64, 96).requires_grad_(False)
    linear.weight.copy_(torch.linspace(-1, 1, 64 * 96).view(96, 64).sin())
    linear.bias.copy_(torch.linspace(-1, 1, 96))
    x = torch.linspace(-9, 9, 33 * 64).view(33, 64).cos()
    try:
        found = QuantisedLinear(linear, Grid(-1.0, 1.0), dtype=torch.float32, gelu=True)(x)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.gelu(linear(x)), atol=0.1)


@contextmanager
def observed(module: nn.Module, *, prefix: str = "") -> Iterator[dict[str, tuple[float, float]]]:
    """Inside, the span of the inputs of all linear layers of `module` that are worth it, by `prefix` and name."""
    ranges: dict[str, tuple[float, float]] = {}

    def watch(name: str):
        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = (float(end) for end in torch.aminmax(inputs[0].detach()))
            known = ranges.get(name, (math.inf, -math.inf))
            ranges[name] = min(low, known[0]), max(high, known[1])

        return before

    hooks = [
        part.register_forward_pre_hook(watch(prefix + name))
        for name, part in module.named_modules()
        if type(part) is nn.Linear and part.weight.numel() >= LEAST_WEIGHTS
    ]
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


def write_ranges(path: Path, ranges: Ranges) -> None:
    """Keep ranges in a JSON file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {name: list(span) for name, span in sorted(ranges.items())}
    with atomic_file(path) as file:
        file.write(json.dumps({"ranges": told, "check": _check(told)}, indent=1).encode())


def read_ranges(path: Path) -> dict[str, tuple[float, float]] | None:
    """What `write_ranges` wrote; None where there is nothing, or anything else: nobody would notice wrong ranges."""
    try:
        found = json.loads(path.read_bytes())
        if found["check"] != _check(found["ranges"]):
            return None
        return {name: (float(low), float(high)) for name, (low, high) in found["ranges"].items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _check(told: Mapping[str, list[float]]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
