"""clapkit eval suite and compare: all tasks whose data is there in one file of scores, and two such files compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from clapkit.cli.options import Device, Precision, Trust
from clapkit.cli.terminal import print_json, progress_wanted, results, say, table
from clapkit.errors import DataError, ModelError, SpecError

if TYPE_CHECKING:
    import numpy as np

    from clapkit.evaluation.suite.run import Model
    from clapkit.evaluation.suite.vectors import Progress
    from clapkit.evaluation.task import Task

BASELINE = "baseline:"
_DECODERS = 4

_Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Run, model folder, checkpoint, short name, hf:// name; or baseline:random, baseline:mel-statistics.",
    ),
]
_Root = Annotated[
    Path, typer.Option("--data-root", help="Folder that holds data sets, each in a folder of its usual name.")
]
_Tasks = Annotated[
    str | None, typer.Option("--tasks", metavar="a,b", help="Only these tasks. Default: all whose data is there.")
]
_Out = Annotated[Path | None, typer.Option("--out", help="Folder for scores and pictures. Default: suite-MODEL.")]
_Baselines = Annotated[bool, typer.Option("--baselines", help="Score both baselines too, in OUT/baselines.")]
_Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the resampling and of the controls.")]
_Samples = Annotated[int, typer.Option("--samples", min=1, help="Resampled data sets for each interval.")]
_Probes = Annotated[
    bool, typer.Option("--probes", help="Also train classifiers on the sounds of tasks with folds (extra: eval).")
]
_Report = Annotated[bool, typer.Option("--report/--no-report", help="Write OUT/report.html.")]
_Copied = Annotated[
    bool, typer.Option("--copy-sounds", help="Put short copies of sounds into the report, for a page that travels.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")]
_Suite = Annotated[Path, typer.Argument(help="suite.json, or the folder that holds it.")]


def add_to(verbs: typer.Typer) -> None:
    example = "Example:  clapkit eval"
    verbs.command(
        "suite",
        epilog=f"{example} suite run --data-root data --baselines   then   clapkit eval compare "
        "suite-run/baselines/random suite-run",
    )(suite)
    verbs.command("compare", epilog=f"{example} compare suite-old/suite.json suite-new/suite.json")(compare)


def suite(
    model: _Model,
    data_root: _Root,
    tasks: _Tasks = None,
    out: _Out = None,
    baselines: _Baselines = False,
    seed: _Seed = 0,
    samples: _Samples = 1000,
    probes: _Probes = False,
    report: _Report = True,
    copy_sounds: _Copied = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Score a model on every task whose data lies under one folder.

    Nothing is downloaded: data sets are found by the names of their folders (ESC-50, UrbanSound8K, Clotho, ...). Each
    task has one pinned protocol; where the folder differs from what was published, the differences are named and the
    score is marked as not standard. Beside each score stand its 95 % interval, the level of chance, and two controls
    that have to lie there: the model asked about the wrong sounds, and shuffled answers.

    OUT/suite.json has everything, OUT/report.html shows it. A run that was ended by whatever goes on where it was:
    sounds are embedded once, tasks are scored once.
    """
    from clapkit.evaluation.suite.baselines import NAMES

    chosen = _chosen(tasks, data_root)
    folder = out or Path(f"suite-{_short(model).replace(':', '-')}")
    asked = [(model, folder)]
    if baselines:
        asked += [(f"{BASELINE}{name}", folder / "baselines" / name) for name in NAMES]
    for name, place in asked:
        embed_audio, embed_text, told, versions = _opened(name, precision, device, trust)
        how: dict[str, Any] = {"samples": samples, "seed": seed, "probes": probes}
        whole = _scored(embed_audio, embed_text, chosen, data_root, place, told, versions, **how)
        if whole["tasks"]:
            results().print(_table(whole))
            for line in _remarks(whole):
                say(line)
        for task, why in whole["unopened"].items():
            say(f"not scored: {task}: {why}")
        say(f"scores: {place / 'suite.json'}")
        if report and whole["tasks"]:
            from clapkit.evaluation.pages.report import write_report

            write_report(place / "suite.json", place / "report.html", copy_sounds=copy_sounds)
            say(f"report: {place / 'report.html'}")
        if not whole["tasks"]:
            raise DataError(f"none of the {len(chosen)} tasks could be scored; the reasons are above")


def compare(a: _Suite, b: _Suite, json: _Json = False, samples: _Samples = 1000, seed: _Seed = 0) -> None:
    """Compare two models by their suites: B - A for every metric, with its interval and p value.

    Clips are resampled for both models together where OUT/outcomes is still there; else the difference of the intervals
    is all there is, which is wider, and "unpaired" stands in the place of p. Only tasks with the same protocol, clips
    and answers are compared; the others are named with the reason.
    """
    from clapkit.evaluation.suite.compare import compare as compared

    found = compared(a, b, samples=samples, seed=seed)
    if json:
        print_json(found.to_json())
    else:
        results().print(found.table())
    for task, why in found.left.items():
        say(f"not compared: {task}: {why}")
    for note in found.notes:
        say(f"note: {note}")


def _chosen(names: str | None, root: Path) -> list[Task]:
    from clapkit.evaluation.tasks import TASKS, find_task, tasks_in

    if names is not None:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if not wanted:
            raise SpecError("--tasks is empty: name tasks with commas between them, or leave it out")
        return [find_task(name) for name in dict.fromkeys(wanted)]
    found = tasks_in(root)
    if not found:
        folders = {folder: task.name for task in TASKS for folder in task.layout.folders[:1]}
        raise DataError(
            f"no data set of a known layout is in {root}: expected it to hold, or to be, a folder with one of these "
            "names (case, '-' and '_' do not matter):",
            sorted(folders),
        )
    return found


def _opened(
    name: str, precision: str, device: str, trust: Sequence[str] | None
) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray], Model, dict[str, str]]:
    """embed_audio, embed_text, what is said of the model, and versions."""
    from clapkit import __version__
    from clapkit.evaluation.suite.run import Model

    versions = {"clapkit": __version__}
    if name.startswith(BASELINE):
        from clapkit.audio.decode import decoder_id
        from clapkit.audio.resample import RESAMPLER
        from clapkit.evaluation.suite.baselines import baseline

        made = baseline(name.removeprefix(BASELINE), decoders=min(_DECODERS, os.cpu_count() or 1))
        pipeline = f"{made.space_id}/{decoder_id()}/{RESAMPLER}/numpy"
        # It was never trained: no sound can have been in what it was trained on.
        told = Model(name, made.space_id, pipeline, frozenset(), {"parameters": 0})
        return made.embed_audio, made.embed_text, told, versions
    from clapkit.cli.scoring import load_both_sides
    from clapkit.provenance import read_heard

    clap = load_both_sides(name, device, precision, trust)
    about: dict[str, Any] = {"family": clap.family, "logit_scale": round(clap.program.scale, 6)}
    try:
        about["parameters"] = sum(weights.numel() for weights in clap.model.parameters())
        versions["torch"] = _torch_version()
    except ModelError:  # another runtime: the graph does not say
        pass
    heard = read_heard(Path(name)) if Path(name).is_dir() else None
    told = Model(_short(name), clap.space_id, clap.pipeline_id, heard, about)
    return clap.embed_audio, clap.embed_text, told, versions


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _scored(
    embed_audio: Callable[..., np.ndarray],
    embed_text: Callable[..., np.ndarray],
    tasks: Sequence[Task],
    root: Path,
    out: Path,
    model: Model,
    versions: Mapping[str, str],
    *,
    samples: int,
    seed: int,
    probes: bool,
) -> dict[str, Any]:
    from clapkit.evaluation.suite.run import run_suite

    with _bars() as progress:
        return run_suite(
            embed_audio,
            embed_text,
            tasks=tasks,
            root=root,
            out=out,
            model=model,
            samples=samples,
            seed=seed,
            probes=probes,
            versions=versions,
            progress=progress,
        )


@contextmanager
def _bars() -> Iterator[Progress]:
    """One bar at a time, renamed as the work goes from sounds to sentences to scores."""
    from clapkit.progress import ProgressBar

    shown: dict[str, ProgressBar] = {}

    def close() -> None:
        for name in list(shown):
            shown.pop(name).__exit__(None, None, None)

    def progress(what: str, done: int, total: int) -> None:
        if what not in shown:
            close()
            shown[what] = ProgressBar(what, total, shown=progress_wanted())
            shown[what].__enter__()
        shown[what].update(done, total)

    try:
        yield progress
    finally:
        close()


def _table(whole: Mapping[str, Any]) -> Table:
    """The headline of each task with its interval, chance and controls."""
    from clapkit.evaluation.report import metric_name
    from clapkit.evaluation.suite.book import headline_of

    rows = []
    for name, entry in whole["tasks"].items():
        _, metric, score = headline_of(entry)
        interval = f"{_percent(score['low'])} to {_percent(score['high'])}"
        checked = ", ".join(_percent(control.get("value")) for control in _controls(entry, metric))
        shown = name if entry["standard"] else f"{name} *"
        values = (_percent(score["value"]), interval, _percent(score["chance"]), checked)
        rows.append((shown, metric_name(metric), entry["clips"], *values))
    numbers = ("clips", "score", "95 % interval", "chance", "controls")
    return table(f"{whole['model']['name']}: scores in %", ("task", "metric", *numbers), rows, numbers=numbers)


def _controls(entry: Mapping[str, Any], metric: str) -> list[Mapping[str, Any]]:
    return [control["metrics"].get(metric, {}) for control in entry["controls"].values()]


def _remarks(whole: Mapping[str, Any]) -> list[str]:
    """What has to be known to read the table: stars, controls, few recordings, and what training heard."""
    from clapkit.evaluation.suite.book import few_recordings, headline_of

    lines = ["controls: the model asked about other sounds, and shuffled answers; both belong at chance"]
    entries = whole["tasks"]
    for name, entry in entries.items():
        _, metric, score = headline_of(entry)
        own = next((c["chance"] for c in _controls(entry, metric) if c.get("chance") is not None), score["chance"])
        if _percent(own) != _percent(score["chance"]):
            lines.append(f"{name}: its controls belong at {_percent(own)}: some classes are more frequent than others")
        for control, told in entry["controls"].items():
            if not told["at_chance"]:
                lines.append(f"{name}: the control {control} is off chance: something besides the sound answers")
        if not entry["standard"]:
            lines.append(f"* {name} is not as it was published: {'; '.join(entry['differences'])}")
        if few := few_recordings(entry):
            lines.append(f"{name}: {few}")
        if entry["seen_in_training"] is True:
            lines.append(f"{name}: {entry['seen_clips']} of its {entry['clips']} sounds were heard in training")
    unknown = [name for name, entry in entries.items() if entry["seen_in_training"] == "unknown"]
    if unknown:
        which = "these sounds" if len(unknown) == len(entries) else f"those of {', '.join(unknown)}"
        lines.append(f"whether {which} were heard in training is not known")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _short(name: str) -> str:
    return Path(name).resolve().name if Path(name).exists() else name.replace("/", "-").replace(":", "-")
