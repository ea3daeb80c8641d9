"""The pre-norm transformer block of ViTs and text encoders, and how rows of unequal length go through a stack of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import SpecError, nearest_name
from clapkit.nets.masked import padding_mask

Activation = Literal["gelu", "quick_gelu", "relu"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
}


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each behind a LayerNorm and added to its input: [B, L, D] -> same.

    width       size of a token, a multiple of `heads`
    hidden      width of the feed-forward layer
    activation  inside the feed-forward layer; "gelu" is the exact one, "quick_gelu" the rough one of the first CLIP
    eps         of both norms: 1e-6 is usual in ViTs, 1e-5 elsewhere

    Raises SpecError for sizes that cannot be and for an unknown activation.
    """

    def __init__(
        self, width: int, *, heads: int, hidden: int, activation: Activation = "gelu", eps: float = 1e-6
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise SpecError(f"width={width} must be a multiple of heads={heads}")
        if activation not in _ACTIVATIONS:
            raise SpecError(
                f"a block has no activation '{activation}'; {nearest_name(activation, get_args(Activation))}"
            )
        self.heads = heads
        self.activation = activation
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.rise = nn.Linear(width, hidden)
        self.fall = nn.Linear(hidden, width)

    def forward(self, tokens_BLD: Tensor, attend: Tensor | None = None) -> Tensor:
        """`attend` [B, 1, 1, L] (or [1, 1, L, L]: by whom) is True where a token may be looked at; None: everywhere."""
        joined = self.query_key_value(self.norm1(tokens_BLD))
        query, key, value = joined.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, L, D / H]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        tokens_BLD = tokens_BLD + self.out(seen.transpose(1, 2).flatten(2))
        inner = _ACTIVATIONS[self.activation](self.rise(self.norm2(tokens_BLD)))
        return tokens_BLD + self.fall(inner)


def run_blocks(blocks: Iterable[nn.Module], tokens_BLD: Tensor, real_BL: Tensor) -> Tensor:
    """Tokens behind all `blocks`; in each row the real tokens stand in front, and they alone are looked at.

    Full rows go without a mask, the others together, cut to the longest of them, and rows without a real token not at
    all. What stands behind the real tokens of a row in the result means nothing, but is finite.
    """
    blocks = list(blocks)
    if torch.compiler.is_compiling() or bool(real_BL.all()):
        return _through(blocks, tokens_BLD, real_BL)
    real_B = real_BL.sum(1)
    length = tokens_BLD.shape[1]
    rows, pieces = [], []
    for chosen_B in (real_B == length, (real_B > 0) & (real_B < length)):
        row_K = chosen_B.nonzero()[:, 0]
        if len(row_K):
            longest = int(real_B[row_K].max())
            piece = _through(blocks, tokens_BLD[row_K, :longest], real_BL[row_K, :longest])
            rows.append(row_K)
            pieces.append(F.pad(piece, (0, 0, 0, length - longest)))
    if not pieces:
        return torch.zeros_like(tokens_BLD)
    joined = torch.cat(pieces)
    return joined.new_zeros(tokens_BLD.shape).index_copy(0, torch.cat(rows), joined)


def attention_mask(real_BL: Tensor) -> Tensor | None:
    """The `attend` of a Block [B, 1, 1, L], or None where every token is real."""
    mask_BL = padding_mask(real_BL)
    if mask_BL is None:
        return None
    # A row without any real token is 0 / 0 in the softmax of some kernels: it may look anywhere.
    return (mask_BL | ~mask_BL.any(1, keepdim=True))[:, None, None, :]


def initialise(module: nn.Module) -> None:
    """Where training starts, for `Module.apply`: Xavier matrices, zero biases, norms that change nothing."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def _through(blocks: list[nn.Module], tokens_BLD: Tensor, real_BL: Tensor) -> Tensor:
    attend = attention_mask(real_BL)
    for block in blocks:
        tokens_BLD = block(tokens_BLD, attend)
    return tokens_BLD
