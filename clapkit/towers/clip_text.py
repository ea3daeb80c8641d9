"""The causal text transformer of CLIP, read at the end token (arXiv:2103.00020)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clapkit.errors import TextTowerError
from clapkit.nets.output import TowerOutput
from clapkit.nets.transformer import Activation, Block, initialise
from clapkit.spec import spec


class ClipText(nn.Module):
    """Token ids [B, L] -> frames [B, L, width], summary [B, width].

    vocabulary    number of token ids; the end token has the largest id of a text
    width         size of a token, a multiple of `heads`
    depth, heads  number of blocks, and of attention heads in each
    hidden        width of the feed-forward layers
    activation    of the feed-forward layers: "gelu", or "quick_gelu" for OpenAI's own models
    max_tokens    number of positions: the longest input accepted

    A token sees itself and those before it; the summary is the frame of the end token. Whatever stands behind that is
    padding, by any id; the mask that other towers need is not looked at, since id 0 pads and is a real token too.
    Raises TextTowerError for a text that is too long.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 49408,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        hidden: int = 2048,
        activation: Activation = "gelu",
        max_tokens: int = 77,
    ) -> None:
        super().__init__()
        self.width, self.max_tokens, self.vocabulary_size = width, max_tokens, vocabulary
        self.folder: Path | None = None  # no folder with a tokenizer comes with it
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(max_tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads=heads, hidden=hidden, activation=activation, eps=1e-5) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)
        self.apply(initialise)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> TowerOutput:
        given = ids_BL.shape[1]
        if given > self.max_tokens:
            raise TextTowerError(f"the texts are {given} tokens long, at most {self.max_tokens} are read")
        end_B = ids_BL.argmax(1)  # the first of equals: an end token that pads too is found where it ends the text
        # Nothing looks ahead: what stands behind the last end token need not be computed.
        length = given if torch.compiler.is_compiling() else int(end_B.max()) + 1
        tokens_BLD = self.embedding(ids_BL[:, :length]) + self.position[:length]
        place_L = torch.arange(length, device=ids_BL.device)
        attend = (place_L <= place_L[:, None])[None, None]
        for block in self.blocks:
            tokens_BLD = block(tokens_BLD, attend)
        frames_BLD = self.norm(tokens_BLD)
        summary_BD = frames_BLD[torch.arange(end_B.shape[0], device=end_B.device), end_B]
        real_BL = torch.arange(given, device=ids_BL.device) <= end_B[:, None]
        frames_BLD = F.pad(frames_BLD, (0, 0, 0, given - length)).masked_fill(~real_BL[..., None], 0.0)
        return TowerOutput(frames_BLD, real_BL, summary_BD)


tiny = spec(ClipText, vocabulary=259, width=32, depth=2, heads=2, hidden=64, max_tokens=32)
base = spec(ClipText)
