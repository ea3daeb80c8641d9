"""Which texts describe which clip, and which of them stand in a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import SpecError


@dataclass(frozen=True)
class TextChoice:
    """How texts are drawn for a batch.

    caption_share   of the draws for a clip that has both, this share takes a written caption, the rest a prompt
    bank            so many further texts of the data set stand in the batch as columns: of each of up to `bank` other
                    labels one prompt, or of clips without labels one caption. They cost a row of the similarity
                    matrix each, because their embeddings are cached, and make small batches learn like larger ones.
                    A bank text that also describes a clip of the batch counts for it, never against it.
    events          the names of all events of the batch stand in it as columns too, for objectives that ask when a text
                    is heard; each counts as a text of the clips in which it happens
    """

    caption_share: float = 0.5
    bank: int = 64
    events: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if not 0.0 <= self.caption_share <= 1.0:
            raise SpecError(f"caption_share is a share between 0 and 1, not {self.caption_share}")
        if self.bank < 0:
            raise SpecError(f"bank is a number of texts, not {self.bank}")


class TextBank:
    """The texts of a data set by label, to draw further columns from."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        by_label: dict[str, tuple[str, ...]] = {}
        loose: dict[str, None] = {}
        self._beside: dict[str, tuple[str, ...]] = {}
        for clip in clips:
            if clip.label and clip.prompts:
                group = by_label.setdefault(clip.label, clip.prompts)
            else:
                group = clip.captions or clip.prompts
                loose.update(dict.fromkeys(group))
            for text in group:
                self._beside.setdefault(text, group)
        self._groups = tuple(by_label.values()) + tuple((text,) for text in loose)

    def draw(self, rng: np.random.Generator, count: int) -> list[str]:
        """At most `count` texts, of different labels or captions."""
        count = min(count, len(self._groups))
        chosen = rng.choice(len(self._groups), count, replace=False) if count else ()
        return [self._groups[i][int(rng.integers(len(self._groups[i])))] for i in chosen]

    def beside(self, text: str) -> tuple[str, ...]:
        """Texts that say the same as one that was drawn, itself among them: of its label, or of one clip."""
        return self._beside.get(text, ())


def draw_text(rng: np.random.Generator, clip: Clip, choice: TextChoice) -> str | None:
    """One text of the clip; None if nothing is said about it."""
    texts = clip.captions
    if clip.prompts and (not texts or rng.random() >= choice.caption_share):
        texts = clip.prompts
    return texts[int(rng.integers(len(texts)))] if texts else None


def other_texts(
    rng: np.random.Generator, columns: Sequence[str], clips: Iterable[Clip], bank: TextBank
) -> tuple[str, ...]:
    """For each column another text that is true of every clip of the batch which the column describes, drawn.

    `clips` are those of the batch and what they were mixed from. A column that describes none of them goes by the bank.
    A column without another text stays itself.
    """
    said: dict[str, dict[str, None]] = {}
    for clip in clips:
        own = dict.fromkeys((*clip.captions, *clip.prompts))
        for text in own:
            said[text] = {t: None for t in said[text] if t in own} if text in said else own
    found = []
    for text in columns:
        others = [t for t in (said[text] if text in said else bank.beside(text)) if t != text]
        found.append(others[int(rng.integers(len(others)))] if others else text)
    return tuple(found)


def event_names(clips: Iterable[Clip]) -> tuple[str, ...]:
    """The different names of what happens in some clips, in the order of their first appearance."""
    return tuple(dict.fromkeys(event.label for clip in clips for event in clip.events))


def soft_target(
    clips: Sequence[Clip], columns: Sequence[str], parts: Sequence[Mapping[str, Clip]], *, events: bool = False
) -> np.ndarray:
    """[B, U] float32: how each clip's description is shared out among the columns; rows sum to 1.

    A column counts for a clip if it is one of the clip's own texts; several share evenly. A mixed clip (`sources`) has
    the rows of what it was mixed from, in their shares: its own texts for itself, and for each other source those of
    `parts[b][name]`, the clip as it was mixed in. With `events` the names of a clip's events are texts of its own.
    """
    place = {text: u for u, text in enumerate(columns)}
    target = np.zeros((len(clips), len(columns)), np.float32)
    for b, clip in enumerate(clips):
        for name, share in clip.sources or ((clip.id, 1.0),):
            source = clip if name == clip.id else parts[b][name]
            named = event_names([source]) if events else ()
            own = [place[t] for t in dict.fromkeys((*source.captions, *source.prompts, *named)) if t in place]
            if own:
                target[b, own] += np.float32(share / len(own))
    total = target.sum(1, keepdims=True)
    return np.divide(target, total, out=target, where=total > 0)
