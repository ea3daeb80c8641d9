"""What a model gained and what it forgot: the same clips and texts, embedded before and after its weights changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from clapkit.errors import DataError
from clapkit.evaluation.metrics import mean_of, top_k_hits
from clapkit.evaluation.report import Result, Score
from clapkit.evaluation.zero_shot import cosines
from clapkit.nearest import unit_rows

if TYPE_CHECKING:
    from rich.table import Table

# Everyday sound, music, speech and scenes: sentences whose vectors show how far the language side has moved.
TEXTS = (
    *("a dog barks", "a cat meows", "birds sing in the morning", "a cow moos", "crickets chirp at night"),
    *("rain falls on a roof", "thunder in the distance", "waves break on the shore", "wind blows", "a fire crackles"),
    *("a door creaks", "someone knocks on a door", "glass breaks", "footsteps on gravel", "water runs from a tap"),
    *("a car passes", "a train goes by", "an engine idles", "a siren wails", "a plane flies overhead"),
    *("a man speaks", "a woman laughs", "a baby cries", "a crowd cheers", "children play in a yard"),
    *("someone plays the piano", "an acoustic guitar", "drums and bass", "a violin melody", "electronic dance music"),
    *("keys are typed on a keyboard", "a phone rings", "a clock ticks", "a saw cuts wood", "a machine hums"),
    *("a busy street", "a quiet forest", "a restaurant full of people", "the inside of a train", "silence"),
)
# What the table shows of each evaluation, where it is there; the file has everything.
_SHOWN = ("accuracy", "map", "r@1_text_to_audio", "r@10_text_to_audio", "r@10_audio_to_text")


@dataclass(frozen=True)
class Heard:
    """What one model makes of one set of clips.

    ids       of the clips, in the order of `audio_ND`
    results   evaluations by task, as in `evaluation.report`
    hits_N    for clips with one label each: the chance that the model names it (`hits`); else None
    groups    the recording of each clip; None: each clip by itself
    """

    ids: tuple[str, ...]
    audio_ND: np.ndarray
    results: Mapping[str, Result] = field(default_factory=dict)
    hits_N: np.ndarray | None = None
    groups: Sequence[Hashable] | None = None


@dataclass(frozen=True)
class Compared:
    """One set of clips before and after.

    gain     after - before of the accuracy; its interval is over differences, so that what is hard for both models
             does not widen it. None where there are no single labels
    cosine   mean cosine between the vectors that a clip had before and has after: 1 if nothing moved
    """

    name: str
    n: int
    before: Mapping[str, Result]
    after: Mapping[str, Result]
    gain: Score | None
    cosine: float


@dataclass(frozen=True)
class Change:
    """The whole comparison; `about` says which models, and how one became the other."""

    sets: tuple[Compared, ...]
    texts_cosine: float
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data: fractions, not percents."""
        return {**self.about, "sets": {s.name: _set_json(s) for s in self.sets}, "texts_cosine": self.texts_cosine}

    def table(self) -> Table:
        """The scores before and after for the terminal (`rich.print`)."""
        from rich.table import Table

        table = Table(title="before and after", title_justify="left")
        for column in ("clips", "metric"):
            table.add_column(column)
        for column in ("before", "after", "change"):
            table.add_column(column, justify="right")
        for compared in self.sets:
            name = f"{compared.name} ({compared.n})"
            for metric, before, after in _shown(compared):
                gain = compared.gain if metric == "accuracy" else None
                table.add_row(
                    name, metric, _percent(before), _percent(after), _signed(after.value - before.value, gain)
                )
                name = ""
            table.add_row(name, "cosine, before with after", "", f"{compared.cosine:.3f}", "")
        table.add_row(f"texts ({len(TEXTS)})", "cosine, before with after", "", f"{self.texts_cosine:.3f}", "")
        return table


def hits(audio_ND: np.ndarray, labels: Sequence[str], names: Sequence[str], text_CD: np.ndarray) -> np.ndarray:
    """The chance [N] that the class of each clip is the best of its row: 0 or 1 without ties."""
    place = {name: c for c, name in enumerate(names)}
    scores_NC = cosines(audio_ND, text_CD, rows="audio_ND", columns="text_CD")
    return top_k_hits(scores_NC, np.array([place[label] for label in labels]))


def compare(name: str, before: Heard, after: Heard) -> Compared:
    """One set of clips as two models hear it. DataError unless both heard the same clips in the same order."""
    if before.ids != after.ids:
        odd = sorted(set(before.ids) ^ set(after.ids))
        raise DataError(f"{name}: {len(before.ids)} clips before and {len(after.ids)} after, not the same ones", odd)
    gain = None
    if before.hits_N is not None and after.hits_N is not None:
        gain = Score.measure(mean_of(after.hits_N - before.hits_N), n=len(before.ids), groups=before.groups)
    cosine = mean_cosine(before.audio_ND, after.audio_ND)
    return Compared(name, len(before.ids), before.results, after.results, gain, cosine)


def mean_cosine(before_ND: np.ndarray, after_ND: np.ndarray) -> float:
    """Mean over the rows of the cosine between a row before and the same row after."""
    before, after = (unit_rows(x, what="vectors").astype(np.float64) for x in (before_ND, after_ND))
    return float((before * after).sum(axis=1).mean())


def _set_json(compared: Compared) -> dict[str, Any]:
    return {
        "n": compared.n,
        "before": {task: result.to_json() for task, result in compared.before.items()},
        "after": {task: result.to_json() for task, result in compared.after.items()},
        "gain": None if compared.gain is None else dataclasses.asdict(compared.gain),
        "cosine": compared.cosine,
    }


def _shown(compared: Compared) -> list[tuple[str, Score, Score]]:
    """(metric, before, after) of what the table shows."""
    found = []
    for task, result in compared.before.items():
        for metric in _SHOWN:
            if metric in result.metrics and not (metric == "map" and "accuracy" in result.metrics):
                found.append((metric, result.metrics[metric], compared.after[task].metrics[metric]))
    return found


def _percent(score: Score) -> str:
    return f"{100 * score.value:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})"


def _signed(value: float, interval: Score | None) -> str:
    if interval is None:
        return f"{100 * value:+.1f}"
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
