"""Views on the words of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip
from clapkit.text.prompts import TRAINING, fill
from clapkit.views.base import Domain, Params


@dataclass(frozen=True)
class LabelPrompts:
    """Turn the class label into sentences, so that a labelled folder can train a language model of sound.

    Every template filled with the label becomes one more caption of the clip, beside those it has. Which of the
    captions is used at a step is drawn by the batch.
    """

    templates: tuple[str, ...] = TRAINING

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        return {}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        names = (clip.label,) if clip.label else clip.tags
        prompts = tuple(fill(template, name) for name in names for template in self.templates)
        known = set(clip.captions)
        return clip.with_(captions=(*clip.captions, *(p for p in prompts if p not in known)))
