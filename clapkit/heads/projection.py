"""From the width of a tower to the width of the shared space: `project(x) -> [..., out_width]`.

All take `(in_width, out_width)`, work on the last axis of any tensor (summaries [B, D] as well as frames [B, T, D]) and
have `.width`. The result is not normalised: the dual encoder does that.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError, nearest_name

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Linear(nn.Module):
    """One linear map."""

    def __init__(self, in_width: int, out_width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.width = out_width
        self.linear = nn.Linear(in_width, out_width, bias=bias)
        _initialise(self.linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class MLP(nn.Module):
    """Linear, non-linearity, linear: with ReLU the head of the LAION models.

    `hidden_width` is `out_width` unless given. Raises SpecError for an unknown activation.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        hidden_width: int | None = None,
        activation: Literal["relu", "gelu"] = "relu",
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise SpecError(f"MLP has no activation '{activation}'; {nearest_name(activation, list(_ACTIVATIONS))}")
        hidden = out_width if hidden_width is None else hidden_width
        self.width = out_width
        self.linear1 = nn.Linear(in_width, hidden)
        self.activation = _ACTIVATIONS[activation]()
        self.linear2 = nn.Linear(hidden, out_width)
        _initialise(self.linear1)
        _initialise(self.linear2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.activation(self.linear1(x)))


class ResidualProjection(nn.Module):
    """The head of the MS-CLAP models: LayerNorm(a + dropout(linear2(gelu(a)))), a = linear1(x); no biases."""

    def __init__(self, in_width: int, out_width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = out_width
        self.linear1 = nn.Linear(in_width, out_width, bias=False)
        self.linear2 = nn.Linear(out_width, out_width, bias=False)
        self.norm = nn.LayerNorm(out_width)
        self.dropout = nn.Dropout(dropout)
        _initialise(self.linear1)
        _initialise(self.linear2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.linear1(x)
        return self.norm(inner + self.dropout(self.linear2(F.gelu(inner))))


class Keep(nn.Module):
    """The input unchanged, for a tower whose width is that of the shared space already.

    Raises SpecError if the two widths differ.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        if in_width != out_width:
            raise SpecError(
                f"Keep cannot turn width {in_width} into {out_width}: use Linear, MLP or ResidualProjection"
            )
        self.width = out_width

    def forward(self, x: Tensor) -> Tensor:
        return x


def _initialise(linear: nn.Linear) -> None:
    # Unit variance in gives unit variance out, whatever the widths.
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
