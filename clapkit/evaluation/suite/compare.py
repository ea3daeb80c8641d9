"""Two models on the same tasks: how far apart their scores are, and whether that could be chance.

Where what each clip came to is kept (`suite.outcomes`), both models are resampled together, so that what is hard for
both does not widen the interval. Without it all that can be said is what the two intervals say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clapkit.evaluation.metrics import Statistic, class_mean_of, mean_of
from clapkit.evaluation.report import Score, metric_name
from clapkit.evaluation.suite.book import FILE, few_recordings, read_suite, sha256_of
from clapkit.evaluation.suite.outcomes import Measure, measures_of

if TYPE_CHECKING:
    from rich.table import Table

_MUST_AGREE = ("version", "suite", "ties")  # of the protocols


@dataclass(frozen=True)
class Difference:
    """One metric of one task: b - a, in the units of the metric.

    how      "paired": both resampled together; "unpaired": the difference of the ends of the two intervals, which is
             wider than it has to be
    p        how often the difference would be as large if it did not matter which model was which: recordings swap
             their models at random. None where the metric is no mean over clips, and where unpaired
    """

    task: str
    result: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float | None
    how: Literal["paired", "unpaired"]


@dataclass(frozen=True)
class Comparison:
    """`left` names the tasks that cannot be compared, with the reason; `notes` what has to be known of the others."""

    a: str
    b: str
    differences: tuple[Difference, ...]
    left: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data: fractions, not percents."""
        found = [dataclasses.asdict(difference) for difference in self.differences]
        return {"a": self.a, "b": self.b, "differences": found, "left": dict(self.left), "notes": list(self.notes)}

    def table(self) -> Table:
        """The differences for the terminal, in percent; a star where the interval leaves out 0."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(f"B: {self.b}, against A: {self.a}. In %"), title_justify="left")
        for column in ("task", "result", "metric"):
            table.add_column(column, overflow="fold")
        for column in ("A", "B", "B - A", "95 % interval", "p"):
            table.add_column(column, justify="right", no_wrap=True)
        before = ("", "")
        for d in self.differences:
            scale = 1 if "rank" in d.metric else 100
            change, low, high = (f"{scale * x:+.1f}" for x in (d.difference, d.low, d.high))
            star = " *" if d.low > 0 or d.high < 0 else "  "
            if before[0] not in ("", d.task):
                table.add_section()
            # What stands in the row above is not said again.
            task = "" if d.task == before[0] else d.task
            result = "" if (d.task, d.result) == before else d.result
            before = (d.task, d.result)
            numbers = (f"{scale * d.a:.1f}", f"{scale * d.b:.1f}", change, f"{low} to {high}{star}", _chance_of(d))
            table.add_row(escape(task), escape(result), metric_name(d.metric), *numbers)
        table.caption = "*: the interval leaves out 0"
        table.caption_justify = "left"
        return table


def compare(a: Path, b: Path, *, samples: int = 1000, seed: int = 0) -> Comparison:
    """Compare two suites, each given as `suite.json` or the folder that holds it.

    Only tasks with the same protocol, the same version and the same clips and answers (by digest) are compared.
    Raises DataError for files that are no suites.
    """
    folders = [path if path.is_dir() else path.parent for path in (a, b)]
    first, second = read_suite(a), read_suite(b)
    names = [str(suite["model"].get("name")) for suite in (first, second)]
    if names[0] == names[1]:
        names = [str(path / FILE if path.is_dir() else path) for path in (a, b)]
    differences: list[Difference] = []
    left: dict[str, str] = {}
    notes: list[str] = []
    odd = [key for key in _MUST_AGREE if first["protocol"].get(key) != second["protocol"].get(key)]
    for task in sorted({*first["tasks"], *second["tasks"]}):
        entries = [suite["tasks"].get(task) for suite in (first, second)]
        why = _apart(entries, names, first["protocol"], second["protocol"], odd)
        if why is not None:
            left[task] = why
            continue
        kept = [_kept(folder, entry) for folder, entry in zip(folders, entries, strict=True)]
        lacking = [name for name, found in zip(names, kept, strict=True) if found is None]
        if lacking:
            notes.append(f"{task}: unpaired, since the outcomes of {' and '.join(lacking)} are absent or changed")
        elif other := _other_parts(kept):
            notes.append(f"{task}: unpaired, since {other} differ between the two")
            kept = [None, None]
        if few := few_recordings(entries[0]):
            notes.append(f"{task}: {few}")
        differences += _differences(task, entries, kept, samples=samples, seed=seed)
    return Comparison(names[0], names[1], tuple(differences), left, tuple(notes))


def _chance_of(difference: Difference) -> str:
    if difference.how == "unpaired":
        return "unpaired"
    return "-" if difference.p is None else f"{difference.p:.3f}"


def _apart(entries: list[Any], names: list[str], first: Any, second: Any, odd: list[str]) -> str | None:
    """Why a task is not compared."""
    for name, entry in zip(names, entries, strict=True):
        if entry is None:
            return f"not scored for {name}"
    if odd:
        return f"other protocols: {odd[0]} is {first.get(odd[0])!r} and {second.get(odd[0])!r}"
    for key, words in (("version", "versions of the task"), ("digest", "clips or answers")):
        if entries[0].get(key) != entries[1].get(key):
            sizes = f" ({entries[0].get('clips')} and {entries[1].get('clips')} clips)" if key == "digest" else ""
            return f"other {words}: {entries[0].get(key)} and {entries[1].get(key)}{sizes}"
    return None


def _kept(folder: Path, entry: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    told = entry.get("outcomes") or {}
    path = folder / str(told.get("file"))
    if not told or sha256_of(path) != told.get("sha256"):
        return None
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _other_parts(kept: list[dict[str, np.ndarray] | None]) -> str:
    """What both say of the clips themselves, and do not agree in; empty where they agree."""
    a, b = (found or {} for found in kept)
    words = {"groups": "recordings", "text_to_audio.groups": "recordings", "relevant": "answers", "folds": "folds"}
    odd = (word for name, word in words.items() if name in a and name in b and not np.array_equal(a[name], b[name]))
    return " and ".join(odd)


def _differences(
    task: str, entries: list[Any], kept: list[dict[str, np.ndarray] | None], *, samples: int, seed: int
) -> list[Difference]:
    measures = [measures_of(found) if found is not None else {} for found in kept]
    found = []
    for result, told in entries[0]["results"].items():
        for metric, score in told["metrics"].items():
            other = entries[1]["results"].get(result, {}).get("metrics", {}).get(metric)
            if other is None or score["value"] is None or other["value"] is None:
                continue
            about = (task, result, metric, score["value"], other["value"], other["value"] - score["value"])
            pair = [measured.get((result, metric)) for measured in measures]
            if pair[0] is not None and pair[1] is not None:
                low, high, p = _paired(pair[0], pair[1], samples=samples, seed=seed)
                found.append(Difference(*about, low, high, p, "paired"))
            elif None not in (score["low"], score["high"], other["low"], other["high"]):
                low, high = other["low"] - score["high"], other["high"] - score["low"]
                found.append(Difference(*about, low, high, None, "unpaired"))
    return found


def _paired(a: Measure, b: Measure, *, samples: int, seed: int) -> tuple[float, float, float | None]:
    """(low, high, p) of b - a."""

    def statistic(counts_SN: np.ndarray) -> np.ndarray:
        return b.statistic(counts_SN) - a.statistic(counts_SN)

    groups = a.groups.tolist()
    score = Score.measure(statistic, n=a.n, groups=groups, samples=samples, seed=seed)
    if a.values is None or b.values is None:
        return score.low, score.high, None
    return score.low, score.high, _swapped(a, b.values - a.values, samples=samples, seed=seed)


def _swapped(a: Measure, gain_N: np.ndarray, *, samples: int, seed: int) -> float:
    """The p value of the mean gain when each recording takes its two models in a random order (with all others)."""
    statistic_of = mean_of if a.classes is None else _by_class(a.classes)
    ones_1N = np.ones((1, a.n), np.int64)
    observed = abs(float(statistic_of(gain_N)(ones_1N)[0]))
    rng = np.random.default_rng([seed, 3])
    _, group_N = np.unique(a.groups, return_inverse=True)
    extreme = 0
    for _ in range(samples):
        sign_N = rng.choice((-1.0, 1.0), size=int(group_N.max()) + 1)[group_N]
        # Sums in another order round differently: a draw that is the observed one up to that counts.
        extreme += abs(float(statistic_of(sign_N * gain_N)(ones_1N)[0])) >= observed * (1 - 1e-9)
    return (1 + extreme) / (1 + samples)


def _by_class(classes_N: np.ndarray) -> Any:
    def statistic_of(values_N: np.ndarray) -> Statistic:
        return class_mean_of(values_N, classes_N)

    return statistic_of
