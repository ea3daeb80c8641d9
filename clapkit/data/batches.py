"""What a training step is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from clapkit.data.clip import Clip
from clapkit.errors import RecipeError, SpecError

MOST_TAGS = 4096


@dataclass(frozen=True)
class BatchSize:
    """Clips in a batch, and how much of each is heard: longer clips are cropped at a drawn place, shorter ones kept.

    trim    a batch ends with its longest clip, and not always at `clip_s`: for models that mask what is filled up and
            take sound of any length. It saves most with `lengths.ByLength`
    """

    clips: int = 64
    clip_s: float = 5.0
    trim: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if self.clips < 2:
            raise SpecError(f"a contrastive batch needs at least 2 clips, not {self.clips}")
        if self.clip_s <= 0:
            raise SpecError(f"clip_s has to be above 0 seconds, not {self.clip_s}")


@dataclass(frozen=True)
class WrongSounds:
    """M sounds that are false for one text of the batch each, in the order of the texts.

    samples_MN, lengths_M   as those of the clips
    text_M, kind_M          for which text, and which kind of falsehood, of `kinds`
    mel_params              for each mel view what was drawn for the clip that the text speaks of
    """

    samples_MN: np.ndarray
    lengths_M: np.ndarray
    text_M: np.ndarray
    kind_M: np.ndarray
    kinds: int
    mel_params: tuple[tuple[Mapping[str, Any], ...], ...] = ()

    def rows(self, columns: slice) -> slice:
        """Where those of some consecutive texts stand."""
        ends = np.searchsorted(self.text_M, [columns.start or 0, np.inf if columns.stop is None else columns.stop])
        return slice(int(ends[0]), int(ends[1]))

    def of(self, columns: slice) -> WrongSounds:
        """Those of some consecutive texts, which count from 0 then."""
        rows = self.rows(columns)
        return WrongSounds(
            self.samples_MN[rows],
            self.lengths_M[rows],
            self.text_M[rows] - (columns.start or 0),
            self.kind_M[rows],
            self.kinds,
            tuple(params[rows] for params in self.mel_params),
        )


@dataclass(frozen=True)
class Batch:
    """B clips and U distinct texts.

    samples_BN, lengths_B   mono float32 at model rate, padded with zeros at the end
    mel_BTF                 in place of samples ([B, 0] then) what the front-end's filters sum up of them, before the
                            logarithm; float32, 0 in padding. None: samples are there
    texts, soft_target_BU   the texts and how each clip's description is shared out among them
    mel_params              for each mel view the drawn parameters of each clip
    params                  everything that was drawn, JSON-able, for the log and for replay
    wrong                   captions that are false for each clip, for other clips they may be true; "" holds the place
                            of one that is not false of this clip, where places mean kinds (`views.OrderContrast`)
    label_B                 class of each clip (int64, `Classes.label_B`); None: nothing in the data has a label
    tag_BC                  0 or 1 for each name (float32, `Classes.tag_BC`); None: the data has none, or over MOST_TAGS
    other_BN, other_lengths_B, other_mel_params, other_mel_BTF   a second draw of the same clips by the same views;
                            None: nobody asked
    events                  (text, onset_s, offset_s) of what happens in each clip, from the first sample on
    other_texts             for each text another that is true of the same clips, itself if there is none; (): nobody
                            asked
    value_BV                quantities of each clip, NaN where it has none (float32); None: no clip of the data has any
    wrong_sounds            sounds that are false for a text; None: no view makes any
    """

    step: int
    ids: tuple[str, ...]
    samples_BN: np.ndarray
    lengths_B: np.ndarray
    texts: tuple[str, ...]
    soft_target_BU: np.ndarray
    mel_params: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    params: Mapping[str, Any] | None = None
    wrong: tuple[tuple[str, ...], ...] = ()
    label_B: np.ndarray | None = None
    tag_BC: np.ndarray | None = None
    other_BN: np.ndarray | None = None
    other_lengths_B: np.ndarray | None = None
    other_mel_params: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    events: tuple[tuple[tuple[str, float, float], ...], ...] = ()
    other_texts: tuple[str, ...] = ()
    value_BV: np.ndarray | None = None
    wrong_sounds: WrongSounds | None = None
    mel_BTF: np.ndarray | None = None
    other_mel_BTF: np.ndarray | None = None

    def second_draw(self) -> Batch | None:
        """The same clips as their second draw has them; None: there is none."""
        if self.other_BN is None:
            return None
        assert self.other_lengths_B is not None, "samples come with their lengths"
        sound = {"samples_BN": self.other_BN, "lengths_B": self.other_lengths_B, "mel_BTF": self.other_mel_BTF}
        return replace(self, mel_params=self.other_mel_params, **sound)


class Classes:
    """The labels and tags of a data set as numbers.

    labels  the different labels, sorted: class c is `labels[c]`
    tags    the different tags and labels together, sorted: a label counts as a tag of its clip, because views that put
            clips together make tags of their labels
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.labels = tuple(sorted({clip.label for clip in clips if clip.label}))
        self.tags = tuple(sorted({name for clip in clips for name in _names(clip)}))
        self._label = {name: number for number, name in enumerate(self.labels)}
        self._tag = {name: number for number, name in enumerate(self.tags)}

    def label_B(self, parts: Sequence[Sequence[Clip]]) -> np.ndarray | None:
        """Number of each clip's class, int64 [B]; a clip is given as what it was mixed from, or as itself alone.

        -1: no label, one that the data set does not have, or parts of different classes. None: no class at all.
        """
        if not self.labels:
            return None
        found = [{self._label.get(clip.label or "", -1) for clip in clips} for clips in parts]
        return np.array([numbers.pop() if len(numbers) == 1 else -1 for numbers in found], np.int64)

    def tag_BC(self, parts: Sequence[Sequence[Clip]]) -> np.ndarray | None:
        """1 where clip b, or a part of it, has tag c, else 0; float32 [B, C]. None: no tag, or more than MOST_TAGS."""
        if not 0 < len(self.tags) <= MOST_TAGS:
            return None
        table = np.zeros((len(parts), len(self.tags)), np.float32)
        for b, clips in enumerate(parts):
            table[b, [self._tag[name] for clip in clips for name in _names(clip) if name in self._tag]] = 1.0
        return table


def _names(clip: Clip) -> tuple[str, ...]:
    return (*clip.tags, clip.label) if clip.label else clip.tags


def values_BV(clips: Sequence[Clip], parts: Sequence[Mapping[str, Clip]], *, count: int) -> np.ndarray:
    """`count` quantities of each clip, float32 [B, V]; NaN for a clip that has none, or another number of them.

    A mixture (`sources`) has those of what it was mixed from, averaged in their shares: `parts[b][name]` are the
    sources of clip b but itself.
    """
    found = np.full((len(clips), count), np.nan, np.float32)
    for b, clip in enumerate(clips):
        shares = clip.sources or ((clip.id, 1.0),)
        sources = [clip if name == clip.id else parts[b][name] for name, _ in shares]
        if count and all(len(source.values) == count for source in sources):
            found[b] = np.average([source.values for source in sources], axis=0, weights=[w for _, w in shares])
    return found


def check_lengths(views: Iterable[Any], size: BatchSize) -> None:
    """RecipeError where a view makes clips longer (`longest_s`) than a batch holds: the end would be cut, and with it
    what the new captions speak of."""
    for view in views:
        longest_s = getattr(view, "longest_s", None)
        if longest_s is not None and longest_s > size.clip_s:
            raise RecipeError(
                f"{type(view).__name__} makes clips of up to longest_s={longest_s:g} s, and the batch holds "
                f"clip_s={size.clip_s:g} s: make longest_s smaller or batch.clip_s larger"
            )


def part_of(batch: Batch, rows: slice, columns: slice) -> Batch:
    """The same batch with the clips `rows` and the texts `columns` alone; shares of target rows stay as they are."""
    changes: dict[str, Any] = {"texts": batch.texts[columns], "other_texts": batch.other_texts[columns]}
    if batch.wrong_sounds is not None:
        changes["wrong_sounds"] = batch.wrong_sounds.of(columns)
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, np.ndarray):
            changes[f.name] = value[rows]
    for name in ("ids", "wrong", "events"):
        changes[name] = getattr(batch, name)[rows]
    changes["soft_target_BU"] = batch.soft_target_BU[rows, columns]
    for name in ("mel_params", "other_mel_params"):
        changes[name] = tuple(params[rows] for params in getattr(batch, name))
    return replace(batch, **changes)


def event_frames(batch: Batch, *, frames: int, rate_hz: float) -> np.ndarray:
    """events_BUT: in which of `frames` frames, `rate_hz` a second, a text of the batch is heard; float32 [B, U, T].

    1 in every frame that an event of that name touches. Where a clip's events are known at all, other texts are 0 in
    it, but for its own captions: when these are heard nobody has said (NaN), nor anything of clips without events.
    """
    place = {text: u for u, text in enumerate(batch.texts)}
    heard_BUT = np.full((len(batch.ids), len(batch.texts), frames), np.nan, np.float32)
    for b, events in enumerate(batch.events):
        if not events:
            continue
        heard_BUT[b, batch.soft_target_BU[b] == 0] = 0.0
        named = [place[text] for text, _, _ in events if text in place]
        heard_BUT[b, named] = 0.0
        for text, onset_s, offset_s in events:
            if text in place:
                # Rounded: 0.29 s at 100 Hz are 28.999999999999996 frames.
                first, last = np.floor(round(onset_s * rate_hz, 6)), np.ceil(round(offset_s * rate_hz, 6))
                heard_BUT[b, place[text], max(0, int(first)) : max(0, int(last))] = 1.0
    return heard_BUT
