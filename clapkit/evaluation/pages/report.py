"""The report of an evaluation suite: one page that needs nothing beside it, to read, to listen to, and to print."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clapkit.evaluation.pages import figures, numbers
from clapkit.evaluation.pages.charts import Pictures
from clapkit.evaluation.pages.examples import examples
from clapkit.evaluation.pages.figures import Part
from clapkit.evaluation.pages.markup import interval_of, named, percent, said, value_of
from clapkit.evaluation.pages.read import Scored, SuiteRead, TaskRead, read_suite
from clapkit.evaluation.pages.sounds import Sounds
from clapkit.evaluation.pages.style import POLICY, SCRIPT, STYLE
from clapkit.evaluation.pages.tables import chips, fold_table, folds_of, headline_table, probe_fold_table, score_table
from clapkit.evaluation.report import metric_name
from clapkit.evaluation.suite.book import few_recordings
from clapkit.files import atomic_file

DOMAINS = ("sound", "music", "speech", "animals")
_LEAST_SPOKES = 3
_UNSHOWN = ("fingerprints",)  # of the run: for resuming, not for reading
_DATA = ("data", "licence", "documented", "splits", "recordings", "digest")


def write_report(
    json_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    copy_sounds: bool = False,
) -> None:
    """Write the page of a suite's JSON and of the arrays beside it, in one step.

    data_root     the folder that the names of clips are relative to; None: as the JSON says. Sounds are links relative
                  to the page
    copy_sounds   put short copies of the sounds into the page instead (see `Sounds`), for a page that will travel

    What is absent (vectors, a metric, a sound) is told on the page. Raises DataError for a file that is no such JSON.
    """
    suite, out = read_suite(json_path), Path(out_path)
    roots = _roots(suite) if data_root is None else [Path(data_root)]
    with atomic_file(out) as file:
        file.write(page(suite, Sounds(out.parent, roots, copied=copy_sounds)).encode())


def page(suite: SuiteRead, sounds: Sounds) -> str:
    """The HTML of the whole page."""
    pictures, model = Pictures(), suite.part("model")
    title = f"Evaluation of {model.get('name') or 'a model'}"
    links = "".join(f'<li><a href="#{t.anchor}">{named(t.name)}</a></li>' for t in suite.tasks)
    tasks = "".join(_task(task, pictures, sounds, scale=_scale(model)) for task in suite.tasks)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{said(title)}</title><style>{STYLE}</style></head><body>'
        '<a class="skip" href="#scores">Skip to the scores</a><header>'
        '<button class="theme" type="button" hidden></button>'
        f"<h1>Evaluation of {named(model.get('name') or 'a model')}</h1>{_facts(suite)}</header>"
        f'<nav aria-label="Tasks"><ul>{links}</ul></nav><main>'
        f'<section id="scores"><h2>Scores</h2>{headline_table(suite.tasks, pictures)}{_unopened(suite)}</section>'
        f"{_domains(suite.tasks, pictures)}{tasks}</main>{_footer(suite)}<script>{SCRIPT}</script></body></html>\n"
    )


def _roots(suite: SuiteRead) -> list[Path]:
    told = [suite.part("run").get(key) for key in ("data_root", "root", "folder")]
    return [Path(root) for root in told if isinstance(root, str)] + [suite.folder]


def _scale(model: Mapping[str, Any]) -> float | None:
    """What the model multiplies cosines with before the softmax, where the JSON says it."""
    scale, temperature = model.get("logit_scale"), model.get("temperature")
    if isinstance(scale, (int, float)) and scale > 0:
        return float(scale)
    return 1 / float(temperature) if isinstance(temperature, (int, float)) and temperature > 0 else None


def _facts(suite: SuiteRead) -> str:
    """Which model, which space, which protocol."""
    rows = [(key, value) for key, value in suite.part("model").items() if key != "name"]
    rows.append(("protocol", suite.raw.get("protocol")))
    clips = sum(t.headline[2].n or 0 for t in suite.tasks if t.headline is not None)
    left = len(suite.part("unopened"))
    rows.append(
        ("data", f"{len(suite.tasks)} tasks with {clips:,} clips" + (f"; {left} were not scored" if left else ""))
    )
    return _list(rows)


def _list(rows: Sequence[tuple[str, Any]]) -> str:
    items = "".join(
        f"<dt>{said(key.replace('_', ' '))}</dt><dd>{_plain(value)}</dd>" for key, value in rows if value is not None
    )
    return f'<dl class="facts">{items}</dl>'


def _plain(value: Any) -> str:
    """JSON data in words."""
    if isinstance(value, Mapping):
        return "; ".join(f"{said(str(key).replace('_', ' '))} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else named(value)


def _domains(tasks: Sequence[TaskRead], pictures: Pictures) -> str:
    """A radar over domains; with fewer than three of them only the numbers."""
    found: dict[str, list[tuple[str, float]]] = {}
    for task in tasks:
        above = _above_chance(task)
        if above is not None:
            found.setdefault(str(task.raw.get("domain") or "no domain"), []).append((task.name, above))
    axes = {name: found[name] for name in sorted(found, key=lambda n: (*DOMAINS, n).index(n))}
    if not axes:
        return ""
    means = "".join(
        f"<li>{named(domain)}: {percent(sum(v for _, v in values) / len(values))} ({len(values)} task"
        f"{'s' if len(values) > 1 else ''}: {', '.join(f'{named(name)} {percent(v)}' for name, v in values)})</li>"
        for domain, values in axes.items()
    )
    drawn = pictures.radar(axes) if len(axes) >= _LEAST_SPOKES else ""
    few = "" if drawn else f" A radar needs {_LEAST_SPOKES} domains; {len(axes)} of them has scores."
    return (
        '<section id="domains"><h2>Domains</h2><p class="words">Headline scores on a common scale: 0 is chance, 100 % '
        f"is perfect. Rings are tasks, discs are means of a domain.{few}</p>"
        f'<div class="pair">{drawn}<ul>{means}</ul></div></section>'
    )


def _above_chance(task: TaskRead) -> float | None:
    if task.headline is None:
        return None
    metric, score, _ = task.headline
    chances = [chance for chance in (score.chance, task.control_chance(metric, score.chance)) if chance is not None]
    return numbers.above_chance(replace(score, chance=max(chances, default=None)))


def _task(task: TaskRead, pictures: Pictures, sounds: Sounds, *, scale: float | None) -> str:
    raw = task.raw
    about = [raw.get("domain"), raw.get("kind"), f"protocol version {raw['version']}" if "version" in raw else None]
    told = "".join(f'<span class="chip">{said(word)}</span>' for word in about if word)
    head = (
        f'<section class="task" id="{task.anchor}"><h2>{named(task.name)}</h2>'
        f'<div class="chips">{told}{chips(task)}</div>{_notes(task)}'
    )
    if not task.results:
        return f"{head}</section>"
    wide, narrow = _parts(task, pictures, sounds, scale=scale)
    parts = [*wide, *narrow]
    return (
        f"{head}{_big(task)}{_scores(task, pictures)}{''.join(map(_part, wide))}"
        f'<div class="pair">{"".join(map(_part, narrow))}</div>{_absent(parts)}</section>'
    )


def _parts(task: TaskRead, pictures: Pictures, sounds: Sounds, *, scale: float | None) -> tuple[list[Part], list[Part]]:
    """The figures that a task of its kind has: those as wide as the page, and those that stand side by side."""
    kind = task.raw.get("kind")
    wide, narrow = [examples(task, sounds)], [figures.projection(task, pictures)]
    if kind != "captions":
        wide = [figures.classes(task), figures.similarity(task, pictures), *wide]
    if kind not in ("captions", "tags"):
        wide = [figures.confusion(task, pictures), *wide]
        narrow.append(figures.reliability(task, pictures, scale=scale))
    return wide, narrow


def _notes(task: TaskRead) -> str:
    """What differs from the published data, and what its intervals rest on."""
    differences = task.raw.get("differences")
    notes = ""
    if isinstance(differences, list) and differences:
        items = "".join(f"<li>{named(line)}</li>" for line in differences)
        notes = f'<div class="note">Not standard: not to be compared with published scores.<ul>{items}</ul></div>'
    if few := few_recordings(task.raw):
        notes += f'<div class="note">{said(few[0].upper() + few[1:])}.</div>'
    if not task.results:
        notes += '<div class="note">The file has no scores of this task.</div>'
    return notes


def _unopened(suite: SuiteRead) -> str:
    left = suite.part("unopened")
    items = "".join(f"<li>{named(name)}: {named(why)}</li>" for name, why in left.items())
    return f"<details><summary>{len(left)} tasks were not scored</summary><ul>{items}</ul></details>" if left else ""


def _big(task: TaskRead) -> str:
    if task.headline is None:
        return ""
    metric, score, result = task.headline
    chance = "" if score.chance is None else f"chance {value_of(metric, type(score)(score.chance, 0, 0))}"
    n = "" if result.n is None else f"{result.n:,} clips"
    more = ", ".join(word for word in (f"95 % interval {interval_of(metric, score)}", chance, n) if word)
    return f'<p class="big"><b>{value_of(metric, score)}</b><span>{said(metric_name(metric))} ({more})</span></p>'


def _scores(task: TaskRead, pictures: Pictures) -> str:
    folds = f"<h4>Zero-shot, fold by fold</h4>{fold_table(task.folds)}" if task.folds else ""
    probes = [result for result in task.results if folds_of(result)]
    folds += f"<h4>Probes, fold by fold</h4>{probe_fold_table(probes)}" if probes else ""
    done = "".join(
        f"<h4>{named(result.name)}</h4>{_list(_protocol(result))}" for result in task.results if result.protocol
    )
    data = _list([(key, task.raw.get(key)) for key in _DATA])
    how = f"<details><summary>The data, and how it was measured</summary><h4>Data</h4>{data}{done}</details>"
    return f"<details><summary>All scores</summary>{score_table(task, pictures)}{folds}</details>{how}"


def _protocol(result: Scored) -> list[tuple[str, Any]]:
    """What is said of how a result was made; its folds have a table."""
    return [(key, value) for key, value in result.protocol.items() if key != "folds" or not folds_of(result)]


def _part(part: Part) -> str:
    if part.body is None:
        return ""
    return f'<div><h3>{said(part.title)}</h3><p class="words">{said(part.words)}</p>{part.body}</div>'


def _absent(parts: Sequence[Part]) -> str:
    """What this task has no figure of, and why."""
    missing: dict[str, list[str]] = {}
    for part in parts:
        if part.body is None:
            missing.setdefault(part.words, []).append(f"“{part.title}”")
    items = "".join(f"<li>{said(', '.join(titles))}: {named(reason)}</li>" for reason, titles in missing.items())
    return f'<p class="words">Not shown:</p><ul class="words">{items}</ul>' if items else ""


def _footer(suite: SuiteRead) -> str:
    rows = [(key, value) for key, value in suite.part("run").items() if key not in _UNSHOWN]
    return f"<footer><h2>The run</h2>{_list(rows)}</footer>" if rows else ""
