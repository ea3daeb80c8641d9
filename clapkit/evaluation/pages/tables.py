"""Tables of scores: every value with its interval, drawn and in numbers, with chance and controls beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from clapkit.evaluation.pages.charts import Pictures
from clapkit.evaluation.pages.markup import interval_of, is_fraction, named, percent, said, value_of
from clapkit.evaluation.pages.read import Scored, TaskRead
from clapkit.evaluation.report import Score, metric_name

_DOT = "<path class='whisker' d='M3 8H31M3 4v8M31 4v8'/><circle class='dot' cx='17' cy='8' r='4.5'/>"
_CROSS = "<path class='control' d='M3.5 4.5l7 7m0 -7l-7 7'/>"
_MARKS = {
    "score with its 95 % interval": (34, _DOT),
    "chance": (10, "<path class='chance' d='M5 0V16'/>"),
    "controls, with sounds or answers exchanged: they belong at chance, or at their own where one is given": (
        14,
        _CROSS,
    ),
}
_OWN_CHANCE = (
    "Where some classes have more clips than others, a model that mostly answers with those is right more often than "
    "one that guesses, without having heard anything. What the answers of this model reach in that way, dealt out to "
    "the clips by accident, is given as the chance of its controls. A score has to lie above both."
)
_OWN_CONTROLS = ("shuffled_labels",)  # metrics of probes that belong at chance
_WORDS = ("protocol", "training saw it")  # columns of words
_SEEN = {  # in a column of that name, and by itself
    True: ('<span class="chip warn">yes</span>', '<span class="chip warn">training saw this set</span>'),
    False: ('<span class="chip good">no</span>', '<span class="chip good">training did not see this set</span>'),
    None: ('<span class="chip">unknown</span>', '<span class="chip">training saw this set? unknown</span>'),
}


def headline_table(tasks: Sequence[TaskRead], pictures: Pictures) -> str:
    """One row a task: the score that stands for it, controls, size, and whether it may be compared."""
    heads = _heads(("task", "score", "", "chance", "controls", "clips", "protocol", "training saw it"), pictures)
    rows = "".join(_headline(task, pictures) for task in tasks)
    words = f'<p class="words">{_OWN_CHANCE}</p>' if any(map(_own_chance, tasks)) else ""
    return _table(heads, rows, about="Headline scores of all tasks") + legend() + words


def _headline(task: TaskRead, pictures: Pictures) -> str:
    link = f'<a href="#{task.anchor}">{named(task.name)}</a>'
    notes = f"<td>{_standard(task)}</td><td>{_SEEN[_seen(task)][0]}</td>"
    found = task.headline
    if found is None:
        return f'<tr><th scope="row">{link}</th><td colspan="5">no score</td>{notes}</tr>'
    metric, score, result = found
    controls = task.control_scores(metric)
    told = "<br>".join(value_of(metric, control) for _, control in controls) or "–"
    if own := _own_chance(task):
        told += f"<small>chance {own}</small>"
    told += "".join(f'<br><span class="chip warn">{named(name)} off chance</span>' for name in task.off_chance)
    cells = _cells(metric, score, pictures, what=f"{task.name}: {metric}", controls=controls)
    head = f'<th scope="row">{link}<small>{said(metric_name(metric))}</small></th>'
    return (
        f'<tr>{head}{cells}<td class="number">{told}</td>'
        f'<td class="number">{"–" if result.n is None else f"{result.n:,}"}</td>{notes}</tr>'
    )


def _own_chance(task: TaskRead) -> str:
    """The chance of the controls in words, where it is not that of the score."""
    if task.headline is None:
        return ""
    metric, score, _ = task.headline
    own = task.control_chance(metric, score.chance)
    return "" if own is None else value_of(metric, Score(own, own, own))


def chips(task: TaskRead) -> str:
    """Badges: standard or not, and whether training saw the data."""
    return _standard(task) + _SEEN[_seen(task)][1]


def _standard(task: TaskRead) -> str:
    if (standard := task.raw.get("standard")) is None:
        return ""
    kind, word = ("good", "standard") if standard else ("warn", "not standard")
    return f'<span class="chip {kind}">{word}</span>'


def _seen(task: TaskRead) -> bool | None:
    seen = task.raw.get("seen_in_training")
    return seen if isinstance(seen, bool) else None


def score_table(task: TaskRead, pictures: Pictures) -> str:
    """Every metric of every result, then the controls, those of probes among them."""
    heads = _heads(("result", "score", "", "chance"), pictures)
    scores, checks = ([_only(result, control=side) for result in task.results] for side in (False, True))
    rows = "".join(_rows(task, result, pictures, "") for result in scores)
    rows += "".join(_rows(task, control, pictures, "control") for control in (*checks, *task.controls))
    return _table(heads, rows, about=f"All scores of {task.name}")


def _only(result: Scored, *, control: bool) -> Scored:
    """The metrics of a result that are controls of its own, or those that are not."""
    return replace(result, metrics={m: score for m, score in result.metrics.items() if (m in _OWN_CONTROLS) is control})


def _rows(task: TaskRead, result: Scored, pictures: Pictures, kind: str) -> str:
    rows = []
    shown = f"{kind}: {result.name}" if kind else result.name
    for metric, score in result.metrics.items():
        head = f'<th scope="row">{said(metric_name(metric))}<small>{named(shown)}</small></th>'
        cells = _cells(metric, score, pictures, what=f"{task.name}, {result.name}: {metric}")
        rows.append(f'<tr class="{"checked" if kind else ""}">{head}{cells}</tr>')
    return "".join(rows)


def fold_table(folds: Sequence[Scored]) -> str:
    """One row a fold, its metrics in columns."""
    metrics = list(dict.fromkeys(metric for fold in folds for metric in fold.metrics))
    heads = '<th scope="col">fold</th><th scope="col" class="number">clips</th>' + "".join(
        f'<th scope="col" class="number">{said(metric_name(metric))}</th>' for metric in metrics
    )
    rows = "".join(
        f'<tr><th scope="row">{named(fold.name)}</th><td class="number">{"–" if fold.n is None else fold.n}</td>'
        + "".join(f'<td class="number">{_with_interval(metric, fold.metrics)}</td>' for metric in metrics)
        + "</tr>"
        for fold in folds
    )
    return _table(heads, rows, about="Scores of each fold")


def probe_fold_table(probes: Sequence[Scored]) -> str:
    """One row a fold, one column a probe: its score there, and the classifier that was chosen on the other folds."""
    told = {probe.name: folds_of(probe) for probe in probes}
    heads = '<th scope="col">held out</th><th scope="col" class="number">clips</th>' + "".join(
        f'<th scope="col" class="number">{named(name)}</th>' for name in told
    )
    rows = ""
    for fold in dict.fromkeys(fold for folds in told.values() for fold in folds):
        found = [folds.get(fold, {}) for folds in told.values()]
        clips = next((one["n"] for one in found if isinstance(one.get("n"), int)), "–")
        rows += f'<tr><th scope="row">{named(fold)}</th><td class="number">{clips}</td>'
        rows += "".join(f'<td class="number">{_of_fold(one)}</td>' for one in found) + "</tr>"
    return _table(heads, rows, about="Scores of probes in each fold")


def folds_of(result: Scored) -> Mapping[str, Mapping[str, Any]]:
    """What a probe says of each fold; empty for other results."""
    folds = result.protocol.get("folds")
    return folds if isinstance(folds, Mapping) and all(isinstance(f, Mapping) for f in folds.values()) else {}


def _of_fold(told: Mapping[str, Any]) -> str:
    value = told.get("accuracy", told.get("map"))
    shown = percent(float(value)) if isinstance(value, (int, float)) else "–"
    return f"{shown}<small>{named(told['classifier'])}</small>" if "classifier" in told else shown


def _with_interval(metric: str, metrics: Mapping[str, Score]) -> str:
    if metric not in metrics:
        return "–"
    return f"{value_of(metric, metrics[metric])} ({interval_of(metric, metrics[metric])})"


def _cells(
    metric: str, score: Score, pictures: Pictures, *, what: str, controls: Sequence[tuple[str, Score]] = ()
) -> str:
    drawn = pictures.dot(score, what=what, controls=controls) if is_fraction(metric, score) else ""
    chance = "–" if score.chance is None else value_of(metric, Score(score.chance, score.chance, score.chance))
    return (
        f'<td class="number"><strong>{value_of(metric, score)}</strong><small>{interval_of(metric, score)}</small></td>'
        f'<td class="picture">{drawn}</td><td class="number">{chance}</td>'
    )


def _heads(names: Sequence[str], pictures: Pictures) -> str:
    """The first is of the rows; the nameless one is of the pictures and has their scale; numbers stand to the right."""
    cells = []
    for name in names:
        kind = "" if name in (names[0], *_WORDS) else "number" if name else "picture"
        more = "<small>95 % interval</small>" if name == "score" else ""
        cells.append(f'<th scope="col" class="{kind}">{said(name) or pictures.scale()}{more}</th>')
    return "".join(cells)


def legend() -> str:
    """What the marks in the pictures of scores mean."""
    items = "".join(
        f'<li><svg width="{width}" height="16" aria-hidden="true">{mark}</svg>{words}</li>'
        for words, (width, mark) in _MARKS.items()
    )
    return f'<ul class="legend">{items}</ul>'


def _table(heads: str, rows: str, *, about: str) -> str:
    return (
        f'<div class="wide table" tabindex="0" role="region" aria-label="{said(about)}"><table><thead><tr>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
