"""The dual encoder: front-end, tower and head for sound; tower and head for language; one temperature.

    samples_BN -> frontend -> audio tower -> audio head -> unit norm -> audio_BD  \
                                                                                   similarity = audio_BD @ text_CD.T
    ids_BL     ->             text tower  -> text head  -> unit norm -> text_CD   /
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from clapkit.audio.features import Features
from clapkit.audio.mel import MelFrontend, MelSettings
from clapkit.errors import SpecError
from clapkit.spec import Spec

# What the dual encoder itself tells its towers and heads.
GIVEN_WHEN_BUILT = ("bins", "frame_rate_hz_in", "in_width", "out_width")


@dataclass(frozen=True)
class Windowing:
    """How sound of any length becomes one vector: part of the space, because it changes every vector.

    Sound of at most `window_s` is one window, padded at its end; the padding is masked. Longer sound is cut into
    windows of `window_s` every `hop_s`, each encoded on its own to unit norm, then averaged with the weights of
    `audio.windows.plan_windows` and brought to unit norm again.
    """

    window_s: float = 5.0
    hop_s: float = 2.5

    def __post_init__(self) -> None:
        if not 0.0 < self.hop_s <= self.window_s:
            raise SpecError(f"hop_s={self.hop_s} has to be above 0 and at most window_s={self.window_s}")


class DualEncoder(nn.Module):
    """Two encoders into one space of `dimension` numbers.

    frontend                the mel settings of the audio side
    audio, text             Specs of the towers (audio towers take `bins`)
    audio_head, text_head   Specs of the projections; they are given `in_width` and `out_width`
    temperature             where 1 / exp(logit_scale) starts; learnt unless `fixed_temperature`
    frozen_text             the text tower takes no gradient and stays in eval mode (its head still learns)
    """

    def __init__(
        self,
        *,
        frontend: MelSettings,
        audio: Spec,
        text: Spec,
        audio_head: Spec,
        text_head: Spec,
        dimension: int = 384,
        windowing: Windowing | None = None,
        temperature: float = 0.07,
        fixed_temperature: bool = False,
        frozen_text: bool = True,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise SpecError(f"temperature has to be above 0, not {temperature}")
        self.windowing = windowing or Windowing()
        self.dimension = dimension
        self.frozen_text = frozen_text
        self.frontend = MelFrontend(frontend)
        self.audio = audio.build(bins=frontend.mel_bins, frame_rate_hz_in=frontend.rate_hz / frontend.hop_samples)
        self.text = text.build()
        self.audio_head = audio_head.build(in_width=self.audio.width, out_width=dimension)
        self.text_head = text_head.build(in_width=self.text.width, out_width=dimension)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)), requires_grad=not fixed_temperature)
        if frozen_text:
            self.text.requires_grad_(False)
            self.text.eval()

    def train(self, mode: bool = True) -> DualEncoder:
        """Switch to training mode; a frozen text tower stays in eval mode, or its dropout would move cached vectors."""
        super().train(mode)
        if self.frozen_text:
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
        return functional.normalize(self.audio_head(out.summary_BD).float(), dim=-1)

    def text_features(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """What the text tower says before the head, [B, text.width]: the part that can be cached while it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_text):
            return self.text(ids_BL, mask_BL).summary_BD

    def project_text(self, features_BW: torch.Tensor) -> torch.Tensor:
        """Unit-norm text_BD of text features."""
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
