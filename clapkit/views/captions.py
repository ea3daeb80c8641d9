"""Views on the words of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.text.prompts import TRAINING, fill
from clapkit.views.base import Domain, Params


@dataclass(frozen=True)
class LabelPrompts:
    """Turn the class label (or each tag) into sentences, so that a labelled folder trains a language model of sound.

    `draw` takes `per_clip` of the templates (None: all of them); the filled templates become the clip's `prompts`.
    """

    templates: tuple[str, ...] = TRAINING["sound"]
    per_clip: int | None = None

    adds: ClassVar[tuple[str, ...]] = ("text",)
    domain: ClassVar[Domain] = "text"

    def __post_init__(self) -> None:
        if not self.templates:
            raise SpecError("templates is empty: give at least one sentence with {} in it")
        for template in self.templates:
            fill(template, "label")  # a template without a place for the label is refused now, not while training
        if self.per_clip is not None and not 1 <= self.per_clip <= len(self.templates):
            raise SpecError(f"per_clip={self.per_clip}: there are {len(self.templates)} templates to draw from")

    def draw(self, rng: np.random.Generator, clip: Clip, pool: Sequence[Clip]) -> Params:
        count = len(self.templates)
        if self.per_clip is None:
            return {"templates": list(range(count))}
        return {"templates": sorted(int(i) for i in rng.choice(count, self.per_clip, replace=False))}

    def apply(self, clip: Clip, params: Params, pool: Mapping[str, Clip]) -> Clip:
        names = (clip.label,) if clip.label else clip.tags
        made = (fill(self.templates[i], name) for name in names for i in params["templates"])
        return clip.with_(prompts=tuple(dict.fromkeys((*clip.prompts, *made))))
