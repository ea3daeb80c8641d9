"""Shifted-window attention over a square grid whose tokens lie in window order (Swin, arXiv:2103.14030).

Windows are the batch of every attention, so tokens are kept as [B, L, D] sorted by window for a whole stage: a block
without shift moves nothing, a shifted one moves each token once there and once back, and merging is a single gather.
All orders are index tables that depend on sizes alone; they are computed, and no part of the state dict.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Far below any score, but finite, as in the published models.
_APART = -100.0


def window_order(side: int, window: int) -> Tensor:
    """[side * side] indices of the row-major grid, window by window (windows and their tokens both row-major)."""
    per_side = side // window
    grid = torch.arange(side * side).view(per_side, window, per_side, window)
    return grid.transpose(1, 2).flatten()


def in_grid_order(tokens_BLD: Tensor, *, side: int, window: int) -> Tensor:
    """Tokens in window order -> the grid [B, side, side, D]."""
    per_side = side // window
    windows = tokens_BLD.unflatten(1, (per_side, per_side, window, window))
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def in_window_order(grid_BRCD: Tensor, *, window: int) -> Tensor:
    """A grid [B, side, side, D] -> its tokens in window order [B, L, D]."""
    windows = grid_BRCD.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return windows.transpose(2, 3).flatten(1, 4)


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each distance of two tokens: [B, L, D] -> same."""

    bias_index: Tensor

    def __init__(self, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("bias_index", distance_index(window), persistent=False)

    def forward(self, tokens_BLD: Tensor, apart_WNN: Tensor | None) -> Tensor:
        """`apart_WNN` is added to the scores: far below zero for two tokens that are no neighbours; None: all are."""
        batch, length, _ = tokens_BLD.shape
        tokens = self.window**2
        joined = self.qkv(tokens_BLD).view(-1, tokens, 3, self.heads, tokens_BLD.shape[2] // self.heads)
        # Its gradient is summed up far quicker than that of an index in brackets.
        bias = self.bias_table.index_select(0, self.bias_index).view(tokens, tokens, -1).permute(2, 0, 1)[None]
        if bias.requires_grad:
            bias_WHNN = bias if apart_WNN is None else bias + apart_WNN[:, None]
            seen = _LearningAttention.apply(joined, bias_WHNN)
        else:
            if apart_WNN is not None:
                bias = (bias + apart_WNN[:, None]).expand(batch, -1, -1, -1, -1).flatten(0, 1)
            query, key, value = joined.permute(2, 0, 3, 1, 4)  # each [B * windows, H, tokens, D / H]
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype)).transpose(1, 2)
        return self.out(seen.reshape(batch, length, -1))


class _LearningAttention(torch.autograd.Function):
    """Attention under a bias that learns, for which torch has no fused kernel.

    joined_MN3HD (queries, keys and values of M windows beside each other), bias_WHNN -> [M, N, H, D]. The bias is added
    for all clips at once, in place, and no row is looked at for being empty: none is. Written out backward too, because
    torch would cut and join gradients of queries, keys and values by copies of their own.
    """

    @staticmethod
    def forward(ctx: Any, joined_MN3HD: Tensor, bias_WHNN: Tensor) -> Tensor:
        windows, tokens, _, heads, size = joined_MN3HD.shape
        with torch.autocast(joined_MN3HD.device.type, enabled=False):
            query, key, value = joined_MN3HD.permute(2, 0, 3, 1, 4).reshape(3, -1, tokens, size)
            query = query * size**-0.5
            scores = query @ key.transpose(1, 2)
            scores.view(-1, *bias_WHNN.shape).add_(bias_WHNN.to(scores.dtype))
            share = scores.softmax(-1)
            seen = (share @ value).view(windows, heads, tokens, size)
        ctx.save_for_backward(query, key, value, share)
        ctx.bias_like = bias_WHNN.shape, bias_WHNN.dtype
        return seen.transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope_MNHD: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value, share = ctx.saved_tensors
        shape, dtype = ctx.bias_like
        windows, tokens, heads, size = slope_MNHD.shape
        slope = slope_MNHD.transpose(1, 2).reshape(-1, tokens, size)
        of_share = slope @ value.transpose(1, 2)
        of_scores = torch.ops.aten._softmax_backward_data(of_share, share, -1, share.dtype)
        of_query, of_key = (of_scores @ key).mul_(size**-0.5), of_scores.transpose(1, 2) @ query
        of_joined = slope.new_empty(windows, tokens, 3, heads, size)
        for place, made in enumerate((of_query, of_key, share.transpose(1, 2) @ slope)):
            of_joined[:, :, place] = made.view(windows, heads, tokens, size).transpose(1, 2)
        return of_joined, of_scores.view(-1, *shape).sum(0, dtype=dtype)


class _Reordered(torch.autograd.Function):
    """tokens_BLD.index_select(1, order_L) for an order that takes each token once: its gradient is looked up too, where
    torch would add it up token by token."""

    @staticmethod
    def forward(ctx: Any, tokens_BLD: Tensor, order_L: Tensor) -> Tensor:
        ctx.save_for_backward(order_L)
        return tokens_BLD.index_select(1, order_L)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, slope_BLD: Tensor) -> tuple[Tensor, None]:
        return slope_BLD.index_select(1, ctx.saved_tensors[0].argsort()), None


def _reordered(tokens_BLD: Tensor, order_L: Tensor) -> Tensor:
    learns = tokens_BLD.requires_grad
    return _Reordered.apply(tokens_BLD, order_L) if learns else tokens_BLD.index_select(1, order_L)


class SwinBlock(nn.Module):
    """Window attention and a feed-forward layer, each behind a LayerNorm and added to its input: [B, L, D] -> same."""

    def __init__(self, width: int, *, heads: int, window: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads=heads, window=window)
        self.norm2 = nn.LayerNorm(width)
        self.rise = nn.Linear(width, int(expansion * width))
        self.fall = nn.Linear(int(expansion * width), width)

    def forward(self, tokens_BLD: Tensor, shift: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        """`shift` is (where each token of the shifted order comes from, the way back, the scores' `apart_WNN`)."""
        normed = self.norm1(tokens_BLD)
        if shift is None:
            tokens_BLD = tokens_BLD + self.attention(normed, None)
        else:
            there_L, back_L, apart_WNN = shift
            seen = self.attention(_reordered(normed, there_L), apart_WNN)
            tokens_BLD = tokens_BLD + _reordered(seen, back_L)
        return tokens_BLD + self.fall(F.gelu(self.rise(self.norm2(tokens_BLD))))


class PatchMerging(nn.Module):
    """Each 2 x 2 neighbourhood becomes one token of twice the width: [B, L, D] -> [B, L / 4, 2 D]."""

    sources: Tensor

    def __init__(self, width: int, *, side: int, window: int, next_window: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)
        sources = _sources(side, window=window, next_window=next_window)
        self.register_buffer("sources", sources, persistent=False)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        return self.reduce(self.norm(_reordered(tokens_BLD, self.sources).unflatten(1, (-1, 4)).flatten(2)))


class SwinStage(nn.Module):
    """Blocks on a grid of `side` x `side` tokens, every second one shifted by half a window; then perhaps a merging.

    Tokens come and go in window order. A grid of a single window is not shifted. `next_window` is the window of the
    stage behind (the grid it gets is half as wide); None: this is the last one.
    """

    there_L: Tensor
    back_L: Tensor
    apart_WNN: Tensor

    def __init__(
        self,
        width: int,
        *,
        depth: int,
        heads: int,
        side: int,
        window: int,
        expansion: float,
        next_window: int | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads=heads, window=window, expansion=expansion) for _ in range(depth)
        )
        self.shifts = side > window and depth > 1
        if self.shifts:
            there_L = _shifted(side, window=window)
            self.register_buffer("there_L", there_L, persistent=False)
            self.register_buffer("back_L", there_L.argsort(), persistent=False)
            self.register_buffer("apart_WNN", apart_scores(side, window=window), persistent=False)
        self.merge = None
        if next_window is not None:
            self.merge = PatchMerging(width, side=side, window=window, next_window=next_window)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            shifted = self.shifts and number % 2 == 1
            tokens_BLD = block(tokens_BLD, (self.there_L, self.back_L, self.apart_WNN) if shifted else None)
        # Under autocast linear layers give short floats: what blocks add to keeps the format that it came in.
        return tokens_BLD if self.merge is None else self.merge(tokens_BLD).to(tokens_BLD.dtype)


def initialise(module: nn.Module) -> None:
    """The published start of linear layers, norms and bias tables; use as `tower.apply(initialise)`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, WindowAttention):
        nn.init.trunc_normal_(module.bias_table, std=0.02)


def distance_index(window: int) -> Tensor:
    """[tokens * tokens] row of the bias table for each pair of tokens of a window: (rows apart, columns apart)."""
    row_N, column_N = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
    rows_NN = row_N[:, None] - row_N + window - 1
    columns_NN = column_N[:, None] - column_N + window - 1
    return (rows_NN * (2 * window - 1) + columns_NN).flatten()


def _shifted(side: int, *, window: int) -> Tensor:
    """[L] For each place of the window order of the grid rolled up and left by half a window: the token it takes."""
    order_L = window_order(side, window)
    row_L, column_L = order_L // side + window // 2, order_L % side + window // 2
    return order_L.argsort()[row_L % side * side + column_L % side]


def apart_scores(side: int, *, window: int) -> Tensor:
    """[windows, tokens, tokens]: 0 for tokens that are neighbours in the unrolled grid too, else far below zero."""
    place = torch.arange(side)
    region = (place >= side - window).long() + (place >= side - window // 2).long()
    region_WN = (region[:, None] * 3 + region).flatten()[window_order(side, window)].view(-1, window**2)
    return (region_WN[:, :, None] != region_WN[:, None, :]).float() * _APART


def _sources(side: int, *, window: int, next_window: int) -> Tensor:
    """[L] the four children of each token of the next stage, one column of the pair after the other."""
    half = side // 2
    order = window_order(half, next_window)
    top, left = order // half * 2, order % half * 2
    places = [(top + down) * side + left + right for right in (0, 1) for down in (0, 1)]
    return window_order(side, window).argsort()[torch.stack(places, dim=1).flatten()]
