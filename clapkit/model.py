"""The dual encoder: front-end, tower and head for sound; tower and head for language; one temperature.

    samples_BN -> frontend -> audio tower -> audio head -> unit norm -> audio_BD  \
                                                                                   similarity = audio_BD @ text_CD.T
    ids_BL     ->             text tower  -> text head  -> unit norm -> text_CD   /
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from clapkit.audio.features import Features
from clapkit.audio.frontends import build_frontend
from clapkit.errors import SpecError, TextTowerError, nearest_name
from clapkit.spec import Spec

# What the dual encoder itself tells its towers and heads.
GIVEN_WHEN_BUILT = ("bins", "frame_rate_hz_in", "in_width", "out_width")


Fill = Literal["mask", "zeros", "repeat-pad", "repeat"]
Longer = Literal["windows", "start", "fuse", "fuse-crop"]


@dataclass(frozen=True)
class Windowing:
    """How sound of any length becomes one vector: part of the space, because it changes every vector.

    Sound of at most `window_s` is one window. What fills it up:
    mask         nothing: the tower is told where the sound ends and hears no padding
    zeros        silence that is heard
    repeat       the sound again and again, the last time cut
    repeat-pad   the sound a whole number of times, then silence that is heard

    What becomes of longer sound:
    windows      windows of `window_s` every `hop_s`, each encoded on its own to unit norm, then averaged with the
                 weights of `audio.windows.plan_windows` and brought to unit norm again
    start        only the first `window_s` is heard
    fuse         models with feature fusion: the whole mel resized to a window, and a window from each third
                 (`audio.fuse.fuse_long`)
    fuse-crop    the same with a crop from the middle in place of the resized mel (`audio.fuse.crop_long`)
    """

    window_s: float = 5.0
    hop_s: float = 2.5
    fill: Fill = field(default="mask", metadata={"omit_default": True})
    longer: Longer = field(default="windows", metadata={"omit_default": True})

    def __post_init__(self) -> None:
        for name, known in (("fill", get_args(Fill)), ("longer", get_args(Longer))):
            if (value := getattr(self, name)) not in known:
                raise SpecError(f"Windowing: {name}={value!r}; {nearest_name(str(value), known)}")
        if not 0.0 < self.hop_s <= self.window_s:
            raise SpecError(f"hop_s={self.hop_s} has to be above 0 and at most window_s={self.window_s}")


class DualEncoder(nn.Module):
    """Two encoders into one space of `dimension` numbers.

    frontend                the settings of the audio side's front-end (`audio.frontends`)
    audio, text             Specs of the towers (audio towers take `bins`); text is None where there is no language side
    audio_head, text_head   Specs of the projections; they are given `in_width` and `out_width`
    temperature             where 1 / exp(logit_scale) starts; learnt unless `fixed_temperature`
    frozen_text             the text tower takes no gradient and stays in eval mode (its head still learns)
    framewise               Spec of a head that compares single frames with texts (card 049), or None
    stored_filterbank       the mel filter bank is a tensor of the model, because its checkpoint brought its own
    text_missing            why there is no language side and what to do about it: the message of `encode_text`
    pair_bias               where the number starts that objectives on pairs add to each logit; it learns; None: none
    """

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("framewise", "stored_filterbank", "text_missing", "pair_bias")

    def __init__(
        self,
        *,
        frontend: Any,
        audio: Spec,
        text: Spec | None,
        audio_head: Spec,
        text_head: Spec | None,
        dimension: int = 384,
        windowing: Windowing | None = None,
        temperature: float = 0.07,
        fixed_temperature: bool = False,
        frozen_text: bool = True,
        framewise: Spec | None = None,
        stored_filterbank: bool = False,
        text_missing: str | None = None,
        pair_bias: float | None = None,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise SpecError(f"temperature has to be above 0, not {temperature}")
        self.windowing = windowing or Windowing()
        self.dimension = dimension
        self.frozen_text = frozen_text
        self.text_missing = text_missing
        self.frontend = build_frontend(frontend, **({"stored_filterbank": True} if stored_filterbank else {}))
        self.audio = audio.build(bins=frontend.mel_bins, frame_rate_hz_in=frontend.rate_hz / frontend.hop_samples)
        self.text = None if text is None else text.build()
        self.audio_head = audio_head.build(in_width=self.audio.width, out_width=dimension)
        self.text_head = None
        if self.text is not None:
            if text_head is None:
                raise SpecError("a model with a text tower needs a text_head: spec(Keep) where the width fits already")
            self.text_head = text_head.build(in_width=self.text.width, out_width=dimension)
        self.framewise = None if framewise is None else framewise.build()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)), requires_grad=not fixed_temperature)
        self.bias = None if pair_bias is None else nn.Parameter(torch.tensor(float(pair_bias)))
        if frozen_text and self.text is not None:
            self.text.requires_grad_(False)
            self.text.eval()

    def train(self, mode: bool = True) -> DualEncoder:
        """Switch to training mode; a frozen text tower stays in eval mode, or its dropout would move cached vectors."""
        super().train(mode)
        if self.frozen_text and self.text is not None:
            self.text.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    @property
    def scale(self) -> torch.Tensor:
        """exp(logit scale), at most 100 (card 000): the factor between a cosine and a logit."""
        return self.logit_scale.clamp(max=math.log(100.0)).exp()

    def encode_audio(self, samples_BN: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """Unit-norm audio_BD of mono samples at `frontend.rate_hz`; `lengths_B` samples of each row are real."""
        return self.encode_features(self.frontend(samples_BN, lengths_B))

    def encode_features(self, features: Features, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Unit-norm audio_BD of features that the front-end made (and a view may have changed)."""
        out = self.audio(features) if keep is None else self.audio(features, keep=keep)
        if getattr(self.audio_head, "reads", "summary") == "frames":
            return functional.normalize(self.audio_head(out.frames_BTD, out.mask_BT).float(), dim=-1)
        return functional.normalize(self.audio_head(out.summary_BD).float(), dim=-1)

    def text_features(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """What the text tower says before the head, [B, text.width]: the part that can be cached while it is frozen.

        TextTowerError if this model has no language side.
        """
        if self.text is None:
            raise TextTowerError(self.text_missing or "this model has no text tower: it embeds sound alone")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_text):
            return self.text(ids_BL, mask_BL).summary_BD

    def project_text(self, features_BW: torch.Tensor) -> torch.Tensor:
        """Unit-norm text_BD of text features."""
        assert self.text_head is not None, "text_features has refused a model without a text tower"
        return functional.normalize(self.text_head(features_BW).float(), dim=-1)

    def encode_text(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Unit-norm text_BD of token ids; `mask_BL` is True where a token is real."""
        return self.project_text(self.text_features(ids_BL, mask_BL))

    @staticmethod
    def similarity(audio_BD: torch.Tensor, text_CD: torch.Tensor) -> torch.Tensor:
        """Cosine of every sound with every text, [B, C]."""
        return audio_BD @ text_CD.T

    def learnt(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Named parameters that training changes."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)
