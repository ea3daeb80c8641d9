"""Linear layers in 8-bit integers, as ONNX writes them: QuantizeLinear, DequantizeLinear, a product.

Runtimes recognise the pattern and compute the product in integers. The numbers are those of `runtime.quantised`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clapkit.runtime.quantised import Grid, Ranges, quantise_weight


class LinearOfIndices(nn.Module):
    """A linear layer for export. It computes nothing by itself: its operators are those of ONNX."""

    weight_IO: Tensor
    weight_scale_O: Tensor
    weight_zero_O: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, linear: nn.Linear, grid: Grid) -> None:
        super().__init__()
        self.out_features = linear.out_features
        weight_OI, scale_O = quantise_weight(linear.weight.detach())
        for name, value in (
            ("weight_IO", weight_OI.T.contiguous()),
            ("weight_scale_O", scale_O),
            ("weight_zero_O", torch.zeros(len(scale_O), dtype=torch.int8)),
            ("scale", torch.tensor(grid.scale, dtype=torch.float32)),
            ("zero", torch.tensor(grid.zero, dtype=torch.uint8)),
        ):
            self.register_buffer(name, value)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        symbolic = torch.onnx.ops.symbolic
        indices = symbolic("QuantizeLinear", (x, self.scale, self.zero), dtype=torch.uint8, shape=x.shape)
        rounded = symbolic("DequantizeLinear", (indices, self.scale, self.zero), dtype=torch.float32, shape=x.shape)
        weight_IO = symbolic(
            "DequantizeLinear",
            (self.weight_IO, self.weight_scale_O, self.weight_zero_O),
            {"axis": 1},
            dtype=torch.float32,
            shape=self.weight_IO.shape,
        )
        product = torch.matmul(rounded, weight_IO)
        return product if self.bias is None else product + self.bias


def with_integers(model: nn.Module, ranges: Ranges) -> None:
    """Replace the linear layers that `ranges` names."""
    for name, span in ranges.items():
        path, _, last = name.rpartition(".")
        parent = model.get_submodule(path)
        linear = getattr(parent, last)
        assert isinstance(linear, nn.Linear), f"{name} is no linear layer: ranges of another model"
        setattr(parent, last, LinearOfIndices(linear, Grid(*span)))
