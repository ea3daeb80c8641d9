"""What an evaluation hands back: scores with intervals, how they were made, and how they are shown.

A score alone says little, so a `Result` always carries the number of clips, the chance level and the interval beside
it, and a protocol that names everything that was done.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clapkit.errors import DataError, MissingExtraError
from clapkit.evaluation.metrics import Statistic, bootstrap_interval
from clapkit.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

PROTOCOL_VERSION = "clapkit-eval-1"
INTERVAL_LEVEL = 0.95
# Below so many recordings (or speakers) a percentile interval of 95 % is too narrow: of normal means that of 2 held the
# truth in 51 % of 1,500 trials, of 5 in 82 %, of 10 in 91 %, of 40 in 94 %.
FEW_RECORDINGS = 10
TIES = "expected value over all orders of equal scores"


@dataclass(frozen=True)
class Score:
    """A value with its 95 % interval and what guessing would reach. Fractions, except ranks, which count from 1."""

    value: float
    low: float
    high: float
    chance: float | None = None

    @classmethod
    def measure(
        cls,
        statistic: Statistic,
        *,
        n: int,
        groups: Sequence[Hashable] | None = None,
        samples: int = 1000,
        seed: int = 0,
        chance: float | None = None,
    ) -> Score:
        """The statistic of all `n` items, and its interval over resampled groups (see `bootstrap_interval`)."""
        value = float(statistic(np.ones((1, n), np.int64))[0])
        low, high = bootstrap_interval(statistic, n=n, groups=groups, samples=samples, seed=seed, level=INTERVAL_LEVEL)
        return cls(value, low, high, chance)


@dataclass(frozen=True)
class Result:
    """The outcome of one evaluation.

    task         "zero-shot", "retrieval" or "label-search"
    n            clips that were scored
    protocol     everything that was done: templates, split, ties, resampling, version
    metrics      name -> Score
    per_class    class -> numbers of that class; None where the class has no clip
    class_names  the classes in the order of `confusion_CC` (row = truth, column = best match), where there is one
    rows         what each row came to, where an evaluation keeps it for paired comparisons (not in the JSON)
    """

    task: str
    n: int
    protocol: Mapping[str, Any]
    metrics: Mapping[str, Score]
    per_class: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pipeline_id: str | None = None
    class_names: tuple[str, ...] = ()
    confusion_CC: np.ndarray | None = field(default=None, compare=False)
    rows: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)

    def with_(self, *, pipeline_id: str | None = None, **protocol: Any) -> Result:
        """A copy that names the pipeline and says more about the protocol (template=..., split=..., data=...)."""
        pipeline_id = self.pipeline_id if pipeline_id is None else pipeline_id
        return dataclasses.replace(self, pipeline_id=pipeline_id, protocol={**self.protocol, **protocol})

    def to_json(self) -> dict[str, Any]:
        """Plain data: fractions, not percents; a value that does not exist is null."""
        return _plain(
            {
                "task": self.task,
                "n": self.n,
                "protocol": self.protocol,
                "pipeline_id": self.pipeline_id,
                "metrics": {name: dataclasses.asdict(score) for name, score in self.metrics.items()},
                "per_class": self.per_class,
            }
        )

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file in one step: a reader finds the old file or the whole new one."""
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with atomic_file(path) as file:
            file.write(text.encode())

    def table(self) -> Table:
        """The scores for the terminal (`rich.print`)."""
        from rich.table import Table

        table = Table(title=f"{self.task}, n = {self.n} clips", title_justify="left")
        table.add_column("metric")
        for column in ("value", f"{INTERVAL_LEVEL:.0%} interval", "chance"):
            table.add_column(column, justify="right")
        for name, score in self.metrics.items():
            value, low, high, chance = (_shown(name, x) for x in dataclasses.astuple(score))
            table.add_row(name, value, f"{low} to {high}", chance)
        return table

    def class_table(self) -> Table:
        """The numbers of each class for the terminal."""
        from rich.table import Table

        table = Table(title=f"{self.task} by class, n = {self.n} clips", title_justify="left")
        table.add_column("class")
        columns = [c for c in next(iter(self.per_class.values()), {}) if c != "taken_for"]
        for column in columns:
            table.add_column(column, justify="right")
        for name, row in self.per_class.items():
            table.add_row(name, *(str(row[c]) if c == "n" else _shown(c, row[c]) for c in columns))
        return table

    def confusion_plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the confusion matrix to an image; raises DataError for a task that has none."""
        if self.confusion_CC is None:
            raise DataError(f"this {self.task} result has no confusion matrix: only clips with one label each have one")
        accuracy = self.metrics["accuracy"].value
        title = f"{self.task}: {accuracy:.1%} of {self.n} clips"
        confusion_plot(self.confusion_CC, self.class_names, path, title=title)


def protocol(*, samples: int, seed: int, resampled: str, **more: Any) -> dict[str, Any]:
    """The part of a protocol that all evaluations share, with `more` about the one."""
    interval = {"level": INTERVAL_LEVEL, "method": "percentile bootstrap", "samples": samples, "seed": seed}
    return {"version": PROTOCOL_VERSION, "ties": TIES, "interval": {**interval, "resampled": resampled}, **more}


def confusion_plot(
    confusion_CC: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str], *, title: str = ""
) -> None:
    """Draw a confusion matrix (row = truth, column = best match) to an image: colour is the share of the row.

    Cells of at least half a clip carry their count. Raises DataError for names that do not fit the matrix,
    MissingExtraError without matplotlib.
    """
    count = len(class_names)
    if np.shape(confusion_CC) != (count, count) or not count:
        raise DataError(f"a confusion matrix of shape {np.shape(confusion_CC)} for {count} class names")
    share_CC = confusion_CC / np.maximum(confusion_CC.sum(axis=1, keepdims=True), 1e-9)
    figure = _heat_map(
        share_CC, class_names, class_names, title=title, label="share of the clips of the row", span=(0, 1)
    )
    axes = figure.axes[0]
    axes.set(xlabel="best match", ylabel="truth")
    for row, column in zip(*np.nonzero(confusion_CC >= 0.5), strict=True):
        colour = "white" if share_CC[row, column] > 0.5 else "black"
        number = f"{confusion_CC[row, column]:.0f}"
        axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=_FONT_SIZE - 1)
    _save(figure, path)


def similarity_plot(
    similarity_NM: np.ndarray,
    path: str | os.PathLike[str],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> None:
    """Draw cosines between `rows` (sounds) and `columns` (texts) to an image; the best of each row has a frame.

    Raises DataError for names that do not fit the matrix, MissingExtraError without matplotlib.
    """
    if np.shape(similarity_NM) != (len(rows), len(columns)) or not np.size(similarity_NM):
        raise DataError(f"similarities of shape {np.shape(similarity_NM)} for {len(rows)} rows, {len(columns)} columns")
    span = (float(np.min(similarity_NM)), float(np.max(similarity_NM)))
    figure = _heat_map(np.asarray(similarity_NM), rows, columns, title=title, label="cosine", span=span)
    axes = figure.axes[0]
    for row, column in enumerate(np.argmax(similarity_NM, axis=1)):
        frame = {"fill": False, "edgecolor": "crimson", "linewidth": 1.2}
        axes.add_patch(_rectangle()((column - 0.5, row - 0.5), 1, 1, **frame))
    _save(figure, path)


_FONT_SIZE = 7
_CELL_INCHES = 0.17
_LABEL_CHARACTERS = 48


def _heat_map(
    values_NM: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    label: str,
    span: tuple[float, float],
) -> Figure:
    """Axes grow with the number of cells, so that the words of fifty classes do not overlap."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "drawing a figure") from error
    height, width = (max(2.0, _CELL_INCHES * size) for size in values_NM.shape)
    figure = Figure(figsize=(width + 3, height + 3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, and leaves the caller's pyplot alone
    axes = figure.add_subplot()
    image = axes.imshow(values_NM, cmap="Blues", vmin=span[0], vmax=span[1], aspect="equal")
    for axis, names in ((axes.yaxis, rows), (axes.xaxis, columns)):
        axis.set_ticks(range(len(names)), [_shortened(n) for n in names], fontsize=_FONT_SIZE)
    axes.tick_params(axis="x", rotation=90)
    axes.set_title(title, fontsize=_FONT_SIZE + 3)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=30)
    bar.set_label(label, fontsize=_FONT_SIZE)
    bar.ax.tick_params(labelsize=_FONT_SIZE)
    return figure


def metric_name(metric: str) -> str:
    """The name of a metric as papers write it: "R@1 text to audio", "mAP"."""
    words = metric.replace("/", " ").replace("_", " ").split(" ")
    return " ".join({"map": "mAP"}.get(w, w.replace("r@", "R@").replace("map@", "mAP@")) for w in words)


def _rectangle() -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


def _shortened(name: str) -> str:
    # A dollar sign would start a formula.
    name = name if len(name) <= _LABEL_CHARACTERS else name[: _LABEL_CHARACTERS - 1] + "…"
    return name.replace("$", r"\$")


def _shown(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if "rank" in name:
        return f"{value:.1f}"
    return f"{100 * value:.2f} %" if 0 < value < 0.01 else f"{100 * value:.1f} %"


def _plain(value: Any) -> Any:
    """JSON data without NaN and without numpy types."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
