"""Patches that the tower does not see, and a small network that foretells them from those it does (cards 022, 024)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from clapkit.audio.features import Features
from clapkit.data.batches import Batch
from clapkit.data.sampling import TOKENS, stream
from clapkit.errors import RecipeError, SpecError, nearest_name
from clapkit.model import DualEncoder
from clapkit.nets.transformer import Block, attention_mask, initialise

Target = Literal["patches", "teacher"]


@dataclass(frozen=True)
class HiddenPatches:
    """Patches of each clip are hidden from the tower and foretold by a transformer that reads the visible tokens.

    share         so much of what is real of each clip is hidden, drawn for every clip and step
    target        "patches": the levelled mel patches themselves (masked autoencoding; FLAP, card 024), for
                  `MaskedReconstruction`. "teacher": the tokens that the moving average of the tower makes of the hidden
                  patches when it sees these alone (M2D, card 022), for `MaskedLatent`; wants `train.ema`
    width, depth, heads   of the small transformer, which is left behind at the end of the run

    The tower hears the visible tokens once more beside what the other objectives ask of it. It has to be a patch
    transformer that computes only the tokens it is told to.
    """

    share: float = 0.7
    target: Target = "patches"
    width: int = 128
    depth: int = 2
    heads: int = 4

    adds: ClassVar[tuple[str, ...]] = ("rebuilt", "hidden")

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise SpecError(f"share is a share between 0 and 1, both left out, not {self.share}")
        if self.target not in get_args(Target):
            raise SpecError(f"target={self.target!r}; {nearest_name(str(self.target), get_args(Target))}")
        if min(self.width, self.depth, self.heads) < 1 or self.width % 2 or self.width % self.heads:
            raise SpecError(
                f"width={self.width}, depth={self.depth}, heads={self.heads}: all at least 1, and width even and a "
                "multiple of heads"
            )

    def build(self, tower: Any, *, seed: int) -> Decoder:
        """The network for the tokens of `tower`, with weights that `seed` alone decides.

        RecipeError for a tower without patches that can be left out.
        """
        check_tower(type(tower))
        out_width = math.prod(tower.patch) if self.target == "patches" else int(tower.width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Decoder(tower.width, out_width, bands=tower.bands, settings=self)


def check_tower(kind: type) -> None:
    """RecipeError for a class of towers that cannot leave patches out."""
    if not hasattr(kind, "patches") or not hasattr(kind, "token_count"):
        raise RecipeError(
            f"HiddenPatches makes 'rebuilt' and 'hidden' of patches that the tower does not see, and {kind.__name__} "
            "cannot leave any out: use a patch transformer (towers.vit)"
        )


class Decoder(nn.Module):
    """Visible tokens and their places -> what stands in the hidden places.

    visible_BKD    tokens of the tower;  visible_BK: their indices
    place_BN       the indices that are asked for
    returns        [B, N, out_width]
    """

    def __init__(self, in_width: int, out_width: int, *, bands: int, settings: HiddenPatches) -> None:
        super().__init__()
        self.width, self.bands = settings.width, bands
        self.enter = nn.Linear(in_width, settings.width)
        blocks = (Block(settings.width, heads=settings.heads, hidden=4 * settings.width) for _ in range(settings.depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(settings.width)
        self.leave = nn.Linear(settings.width, out_width)
        self.apply(initialise)
        self.asked = nn.Parameter(0.02 * torch.randn(settings.width))
        self.band_position = nn.Parameter(0.5 * torch.randn(bands, settings.width))  # as strong as those of time

    def forward(self, visible_BKD: Tensor, visible_BK: Tensor, place_BN: Tensor, *, real_BL: Tensor) -> Tensor:
        """`real_BL`: which tokens of the clip are real, hidden or not."""
        tokens = self.enter(visible_BKD) + self._position(visible_BK)
        asked = self.asked + self._position(place_BN)
        attend = attention_mask(real_BL.gather(1, torch.cat([visible_BK, place_BN], dim=1)))
        tokens = torch.cat([tokens, asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens, attend)
        return self.leave(self.norm(tokens[:, visible_BK.shape[1] :]))

    def _position(self, index_BK: Tensor) -> Tensor:
        """Sinusoids of the time step, and the learned vector of the band: tokens are ordered in time first."""
        half = self.width // 2
        rate_H = torch.exp(torch.arange(half, device=index_BK.device) * (-math.log(10_000.0) / half))
        angle_BKH = (index_BK // self.bands)[..., None] * rate_H
        time_BKD = torch.cat([angle_BKH.sin(), angle_BKH.cos()], dim=-1).to(self.band_position.dtype)
        return time_BKD + self.band_position[index_BK % self.bands]


@dataclass(frozen=True)
class Hiding:
    """What a step asks for `rebuilt_BNP`, `hidden_BNP` and `hidden_BN`; `teacher` is None for the patches themselves.

    A clip hides the same patches whenever the step is taken, alone or with others: they are drawn by seed, step and id.
    """

    settings: HiddenPatches
    decoder: Decoder
    teacher: DualEncoder | None
    seed: int

    def __call__(
        self, model: DualEncoder, batch: Batch, features: Features, encode_texts: Callable[[Sequence[str]], Any]
    ) -> dict[str, Tensor]:
        patches_BLP, steps_BT = model.audio.patches(features)
        real_BL = steps_BT.repeat_interleave(model.audio.bands, dim=1)
        visible_BK, place_BN, hidden_BN = self._drawn(batch, real_BL)
        visible_BKD = model.audio(features, keep=visible_BK).frames_BTD
        rebuilt_BNP = self.decoder(visible_BKD, visible_BK, place_BN, real_BL=real_BL)
        if self.teacher is None:
            true_BNP = patches_BLP.gather(1, place_BN[..., None].expand(-1, -1, patches_BLP.shape[2]))
        else:
            with torch.no_grad():
                true_BNP = self.teacher.audio(features, keep=place_BN).frames_BTD
        return {"rebuilt_BNP": rebuilt_BNP, "hidden_BNP": true_BNP.detach(), "hidden_BN": hidden_BN}

    def _drawn(self, batch: Batch, real_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of the visible tokens [B, K] and of the hidden ones [B, N], and which of the latter are asked for.

        Of R real tokens of a clip share * R are hidden. K + N are all tokens; what is left of either is padding.
        """
        tokens = real_BL.shape[1]
        if tokens < 2:
            raise RecipeError(f"of clips of {tokens} patch none can be hidden: make batch.clip_s longer")
        hidden = min(max(1, round(self.settings.share * tokens)), tokens - 1)
        visible_rows, place_rows, asked_rows = [], [], []
        for name, real_L in zip(batch.ids, real_BL.cpu().numpy(), strict=True):
            rng = stream(self.seed, TOKENS, batch.step, 2, zlib.crc32(name.encode()))
            order = np.argsort(rng.random(tokens) + ~real_L)  # the real ones first
            real = int(real_L.sum())
            # At least one stays visible, and no more than there is room for.
            cut = min(max(round(self.settings.share * real), real - (tokens - hidden)), hidden, max(0, real - 1))
            padding = order[real:]
            visible_rows.append(np.concatenate([order[cut:real], padding[hidden - cut :]]))
            place_rows.append(np.concatenate([order[:cut], padding[: hidden - cut]]))
            asked_rows.append(np.arange(hidden) < cut)
        rows = (np.stack(rows) for rows in (visible_rows, place_rows, asked_rows))
        visible_BK, place_BN, hidden_BN = (torch.from_numpy(row).to(real_BL.device) for row in rows)
        return visible_BK, place_BN, hidden_BN
