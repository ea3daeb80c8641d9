"""The SONAR text encoder: a pre-norm transformer whose sentence vector is the mean of its tokens (card 119)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from clapkit.errors import TextTowerError
from clapkit.nets.masked import masked_mean
from clapkit.nets.output import TowerOutput
from clapkit.nets.transformer import Block, initialise, run_blocks
from clapkit.spec import spec

_FIRST_POSITION = 2  # positions 0 and 1 belonged to the padding of the library it was trained with


class SonarText(nn.Module):
    """Token ids [B, L] and mask [B, L] (True at tokens) -> frames [B, L, width], summary [B, width].

    vocabulary    number of token ids
    width         size of a token, even, a multiple of `heads`
    depth, heads  number of blocks, and of attention heads in each
    hidden        width of the feed-forward layers (ReLU)
    max_tokens    longest input accepted

    Embeddings are multiplied by sqrt(width) and fixed sinusoids of the position added, counted from 2; the summary is
    the mean over real tokens behind the last norm. Padding stands at the end of a row and changes nothing. A sentence
    is the token of its language, its pieces, and the end token; the language of captions is eng_Latn.
    Raises TextTowerError for a text that is too long.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 256206,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        hidden: int = 8192,
        max_tokens: int = 514,
    ) -> None:
        super().__init__()
        self.width, self.max_tokens, self.vocabulary_size = width, max_tokens, vocabulary
        self.folder: Path | None = None  # no folder with a tokenizer comes with it
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            Block(width, heads=heads, hidden=hidden, activation="relu", eps=1e-5) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.apply(initialise)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TowerOutput:
        if ids_BL.shape[1] > self.max_tokens:
            raise TextTowerError(f"the texts are {ids_BL.shape[1]} tokens long, at most {self.max_tokens} are read")
        real_BL = mask_BL.bool()
        tokens_BLD = self.embedding(ids_BL) * math.sqrt(self.width)
        tokens_BLD = tokens_BLD + _sinusoids(ids_BL.shape[1], like=tokens_BLD)
        frames_BLD = self.norm(run_blocks(self.blocks, tokens_BLD, real_BL)).masked_fill(~real_BL[..., None], 0.0)
        return TowerOutput(frames_BLD, real_BL, masked_mean(frames_BLD, real_BL))


def _sinusoids(length: int, *, like: Tensor) -> Tensor:
    """[L, D]: all sines, then all cosines, of wavelengths from 2 pi to 20000 pi."""
    half = like.shape[-1] // 2
    rate_H = torch.exp(torch.arange(half, device=like.device) * (-math.log(10_000.0) / (half - 1)))
    angle_LH = torch.arange(_FIRST_POSITION, _FIRST_POSITION + length, device=like.device)[:, None] * rate_H
    return torch.cat([angle_LH.sin(), angle_LH.cos()], dim=1).to(like.dtype)


tiny = spec(SonarText, vocabulary=259, width=32, depth=2, heads=2, hidden=64, max_tokens=128)
basic = spec(SonarText)
