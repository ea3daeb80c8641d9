"""What makes a tower quick on a processor without changing it: packed weights, fused activations, prepared biases.

A linear layer of torch hands its weights to the matrix library in the layout they are stored in, at every call. oneDNN,
which torch brings along, is about twice as quick on weights that it was given once to bring into its own layout, adds
the bias and applies GELU while the result is still in the cache, and does the same in bf16 without casting the weights
again for every batch. `packed` makes a copy of a module that works so. It shares all parameters with the original.
Where it is told what the inputs of layers span, these layers work in 8-bit integers (`runtime.quantised`).

These operators are the ones that torch's own compiler uses; where they are missing, or disagree with the plain layer,
nothing is replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.nets.swin import SwinBlock, WindowAttention
from clapkit.runtime.quantised import LEAST_WEIGHTS, Grid, QuantisedLinear, QuantisedNorm, Ranges

_PART_TOKENS = 2048


@dataclass(frozen=True)
class Plan:
    """What layers are replaced by.

    dtype    of what they compute in, or between layers in integers
    grids    name of a linear layer -> the grid of its input; such a layer works in integers
    """

    dtype: torch.dtype
    grids: Mapping[str, Grid] = field(default_factory=dict)

    def linear(self, linear: nn.Linear, name: str = "", *, gelu: bool = False, before: str = "") -> nn.Module:
        """A quick `linear` (itself, if it is small). `name`: under which its grid is looked up, in integers only if
        given; `before`: that of the layer that alone reads the result."""
        if name in self.grids:
            return QuantisedLinear(linear, self.grids[name], dtype=self.dtype, gelu=gelu, result=self.grids.get(before))
        if gelu or linear.weight.numel() >= LEAST_WEIGHTS:
            return PackedLinear(linear, dtype=self.dtype, gelu=gelu)
        return linear

    def norm(self, norm: nn.LayerNorm, before: str) -> nn.Module:
        """A norm whose result only the linear layer `before` reads."""
        return QuantisedNorm(norm, self.grids[before]) if before in self.grids else norm


class PackedLinear(nn.Module):
    """A linear layer with packed weights [out, in]; `gelu` is applied to its result.

    In bf16 the input is rounded and the result is bf16, as under autocast.
    """

    def __init__(self, linear: nn.Linear, *, dtype: torch.dtype, gelu: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype, self.gelu = dtype, gelu
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype).contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        activation = ("gelu", [], "none") if self.gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, *activation)


class PreparedAttention(nn.Module):
    """Window attention whose bias is looked up once, and added to the distances of a shifted grid once."""

    def __init__(self, attention: WindowAttention, plan: Plan, name: str) -> None:
        super().__init__()
        self.heads, self.tokens = attention.heads, attention.window**2
        # In fp32 the fused attention of torch is the quicker one; in bf16 two products are, by a fifth of a block.
        self.fused = plan.dtype == torch.float32
        self.qkv = plan.linear(attention.qkv, f"{name}.qkv")
        # Never in integers: bringing its input onto a grid takes as long as they save.
        self.out = plan.linear(attention.out)
        table = attention.bias_table.detach()[attention.bias_index]
        self.bias_1HNN = table.view(self.tokens, self.tokens, -1).permute(2, 0, 1)[None].to(plan.dtype).contiguous()
        self.shifted_WHNN: Tensor | None = None

    def forward(self, tokens_MD: Tensor, bias_WHNN: Tensor) -> Tensor:
        """Tokens of whole windows one after the other; `bias_WHNN` (`bias`) for each of them, or for each in turn."""
        windows, size = len(tokens_MD) // self.tokens, tokens_MD.shape[1] // self.heads
        joined = self.qkv(tokens_MD).view(windows, self.tokens, 3, self.heads, size)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        if len(bias_WHNN) != windows:
            shape = windows // len(bias_WHNN), *bias_WHNN.shape
            bias_WHNN = bias_WHNN.expand(shape).flatten(0, 1) if len(bias_WHNN) > 1 else bias_WHNN
        if self.fused:
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_WHNN)
        else:
            bias_BNN = bias_WHNN.expand(windows, -1, -1, -1).reshape(-1, self.tokens, self.tokens)
            query, key, value = (x.reshape(windows * self.heads, self.tokens, size) for x in (query, key, value))
            scores = torch.baddbmm(bias_BNN, query, key.transpose(1, 2), alpha=size**-0.5)
            seen = torch.bmm(torch.softmax(scores, dim=-1), value).view(windows, self.heads, self.tokens, size)
        return self.out(seen.transpose(1, 2).reshape(tokens_MD.shape))

    def bias(self, apart_WNN: Tensor | None) -> Tensor:
        """[1 or W, heads, N, N]: for all windows of a grid, or for each of a shifted one."""
        if apart_WNN is None:
            return self.bias_1HNN
        if self.shifted_WHNN is None:
            self.shifted_WHNN = (self.bias_1HNN + apart_WNN[:, None]).to(self.bias_1HNN.dtype)
        return self.shifted_WHNN


class PreparedBlock(nn.Module):
    """A Swin block with prepared attention, GELU inside its first linear layer, and some windows at a time.

    Windows know nothing of each other, so that a block can end one part of a clip before it begins the next: what lies
    between its layers then stays in the cache of the processor.
    """

    def __init__(self, block: SwinBlock, plan: Plan, name: str) -> None:
        super().__init__()
        self.norm1 = plan.norm(block.norm1, f"{name}.attention.qkv")
        self.norm2 = plan.norm(block.norm2, f"{name}.rise")
        self.attention = PreparedAttention(block.attention, plan, f"{name}.attention")
        self.rise = plan.linear(block.rise, f"{name}.rise", gelu=True, before=f"{name}.fall")
        self.fall = plan.linear(block.fall, f"{name}.fall")

    def forward(self, tokens_BLD: Tensor, shift: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        batch, length, width = tokens_BLD.shape
        if shift is not None:
            tokens_BLD = tokens_BLD.index_select(1, shift[0])
        bias_WHNN = self.attention.bias(None if shift is None else shift[2])
        tokens_MD = tokens_BLD.reshape(batch * length, width)
        result_MD = torch.empty_like(tokens_MD)
        part = part_of(length, window=self.attention.tokens)
        for first in range(0, len(tokens_MD), part):
            given = tokens_MD[first : first + part]
            its_bias = bias_WHNN
            if len(bias_WHNN) > 1 and part < length:
                window = first % length // self.attention.tokens
                its_bias = bias_WHNN[window : window + part // self.attention.tokens]
            made = torch.add(given, self.attention(self.norm1(given), its_bias), out=result_MD[first : first + part])
            made.add_(self.fall(self.rise(self.norm2(made))))
        result_BLD = result_MD.view(batch, length, width)
        return result_BLD if shift is None else result_BLD.index_select(1, shift[1])


def part_of(length: int, *, window: int) -> int:
    """Tokens that a block works on at a time: whole clips of `length` tokens, or equal parts of one, whole windows."""
    if length <= _PART_TOKENS:
        return _PART_TOKENS // length * length
    windows = length // window
    return window * next(n for n in range(max(1, _PART_TOKENS // window), 0, -1) if windows % n == 0)


def packed(
    module: nn.Module, *, precision: str, leave: nn.Module | None = None, ranges: Ranges | None = None
) -> nn.Module:
    """A copy for inference that shares its parameters with `module`, quicker where it can be; `module` stays as it is.

    precision   "fp32", or "bf16" for use under autocast
    leave       a part of `module` that the copy shares as it is
    ranges      the linear layers that work in integers, and what their inputs span; between them, `precision`
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if not can_pack(dtype) or any(p.device.type != "cpu" or p.dtype != torch.float32 for p in module.parameters()):
        return module
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    if leave is not None:
        shared[id(leave)] = leave
    twin = copy.deepcopy(module, shared)
    _replace(twin, Plan(dtype, {name: Grid(*span) for name, span in (ranges or {}).items()}), leave)
    return twin


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether the operators are there and agree with the plain layer."""
    with torch.autocast("cpu", enabled=False):
        linear = nn.utils.skip_init(nn.Linear, 64, 96).requires_grad_(False)
        linear.weight.copy_(torch.linspace(-1, 1, 64 * 96).view(96, 64).sin())
        linear.bias.copy_(torch.linspace(-1, 1, 96))
        x = torch.linspace(-9, 9, 33 * 64).view(33, 64).cos()
        try:
            found = PackedLinear(linear, dtype=dtype, gelu=True)(x).float()
        except (AttributeError, RuntimeError, TypeError):
            return False
        return torch.allclose(found, F.gelu(linear(x)), atol=1e-4 if dtype == torch.float32 else 0.1, rtol=0.02)


def versions(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Changes with every change of a parameter: whoever packed the module has to do it again."""
    return tuple((p.data_ptr(), p._version if not p.is_inference() else 0) for p in module.parameters())


def _replace(module: nn.Module, plan: Plan, leave: nn.Module | None, prefix: str = "") -> None:
    for name, child in module.named_children():
        if child is leave:
            continue
        full = prefix + name
        if isinstance(child, SwinBlock):
            setattr(module, name, PreparedBlock(child, plan, full))
        elif type(child) is nn.Linear:
            setattr(module, name, plan.linear(child, full))
        else:
            _replace(child, plan, leave, f"{full}.")
    _fuse_gelu(module)


def _fuse_gelu(module: nn.Module) -> None:
    """Text encoders of transformers: a layer `dense` with exact GELU behind it."""
    activation, dense = getattr(module, "intermediate_act_fn", None), getattr(module, "dense", None)
    if isinstance(dense, PackedLinear) and type(activation).__name__ == "GELUActivation":
        dense.gelu = True
        module.intermediate_act_fn = nn.Identity()
