"""clapkit eval: zero-shot classification, caption retrieval, label search, each with intervals and chance.

`eval suite` and `eval compare` are in `cli.suite`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clapkit.cli import audit, suite
from clapkit.cli.inputs import read_columns, read_splits
from clapkit.cli.options import Column, Data, Device, Precision, Split, Trust
from clapkit.cli.terminal import results, say, show_skipped
from clapkit.errors import SpecError

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.cli.scoring import Gallery
    from clapkit.data.clip import Clip
    from clapkit.evaluation.report import Result

_Run = Annotated[str, typer.Argument(metavar="RUN", help="Run, model folder, checkpoint, short name or hf:// name.")]
_LabelColumn = Annotated[str, typer.Option(help="Column that holds the label; 'tags' for several labels a clip.")]
_Template = Annotated[
    list[str] | None, typer.Option("--template", help="Sentence around the label; several are averaged. Repeatable.")
]
_Ensemble = Annotated[bool, typer.Option("--ensemble", help="Average over the built-in evaluation templates.")]
_LabelsFile = Annotated[
    Path | None, typer.Option("--labels-file", help="Classes, one a line; behind a tab other words for it.")
]
_GroupColumn = Annotated[
    str | None, typer.Option(help="Column that names the recording: clips of one are resampled together.")
]
_Json = Annotated[Path | None, typer.Option("--json", help="Write the scores to this file.")]
_Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the confusion matrix to this PNG file.")]
_PerClass = Annotated[bool, typer.Option("--per-class", help="Show the table of all classes.")]
_Duplicates = Annotated[str, typer.Option(help="Equal captions of different clips: strict or relevant.")]


def add_to(app: typer.Typer) -> None:
    verbs = typer.Typer(
        help="Score a model: a whole suite of tasks, or zero-shot, retrieval, search.", no_args_is_help=True
    )
    example = "Example:  clapkit eval"
    verbs.command("zero-shot", epilog=f"{example} zero-shot run --data esc50.csv --split fold=5")(zero_shot)
    verbs.command("retrieval", epilog=f"{example} retrieval run --data clips.jsonl --split split=test")(retrieval)
    verbs.command("search", epilog=f"{example} search run --data esc50.csv --split fold=5")(search)
    suite.add_to(verbs)
    audit.add_to(verbs)
    app.add_typer(verbs, name="eval")


def zero_shot(
    run: _Run,
    data: Data,
    split: Split = None,
    column: Column = None,
    label_column: _LabelColumn = "label",
    template: _Template = None,
    ensemble: _Ensemble = False,
    labels_file: _LabelsFile = None,
    group_column: _GroupColumn = None,
    json: _Json = None,
    plot: _Plot = None,
    per_class: _PerClass = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Classify clips by comparing each with a sentence about each class.

    Accuracy, macro accuracy, mAP and top 5, with 95 % intervals and the level of chance. The classes are the labels
    that occur, unless --labels-file names them. Where labels are missing, clips are left out and counted.
    """
    result = _by_label(
        "zero-shot", run, data, split, column, label_column, template, ensemble, labels_file, group_column,
        precision, device, trust,
    )  # fmt: skip
    _show(result, json=json, per_class=per_class)
    if plot is not None:
        result.confusion_plot(plot)
        say(f"confusion matrix: {plot}")


def search(
    run: _Run,
    data: Data,
    split: Split = None,
    column: Column = None,
    label_column: _LabelColumn = "label",
    template: _Template = None,
    ensemble: _Ensemble = False,
    labels_file: _LabelsFile = None,
    group_column: _GroupColumn = None,
    json: _Json = None,
    per_class: _PerClass = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Look for each class by its name among all clips: R-precision and mean average precision."""
    result = _by_label(
        "search", run, data, split, column, label_column, template, ensemble, labels_file, group_column,
        precision, device, trust,
    )  # fmt: skip
    _show(result, json=json, per_class=per_class)


def retrieval(
    run: _Run,
    data: Data,
    split: Split = None,
    column: Column = None,
    duplicates: _Duplicates = "strict",
    group_column: _GroupColumn = None,
    json: _Json = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Find clips by their captions and captions by their clips: R@1, R@5, R@10, mAP@10, median rank."""
    from clapkit.cli.scoring import captions_of, groups_of, retrieval_result

    if duplicates not in ("strict", "relevant"):
        raise SpecError(f"--duplicates is strict or relevant, not {duplicates!r}")
    clips, about = _read(data, split, read_columns(column or ()))
    captions_of(clips)
    groups_of(clips, column=group_column)
    clap, gallery = _embed(run, clips, precision, device, trust)
    result = retrieval_result(clap, gallery, duplicates=duplicates, group_column=group_column, **about)
    _show(result, json=json, per_class=False)


def _by_label(
    task: str,
    run: str,
    data: Sequence[Path],
    split: Sequence[str] | None,
    column: Sequence[str] | None,
    label_column: str,
    template: Sequence[str] | None,
    ensemble: bool,
    labels_file: Path | None,
    group_column: str | None,
    precision: str,
    device: str,
    trust: Sequence[str] | None,
) -> Result:
    from clapkit.cli.scoring import Classes, groups_of, labels_of, zero_shot_result
    from clapkit.evaluation.zero_shot import label_matrix

    templates = _templates(template, ensemble)
    classes = None if labels_file is None else Classes.read(labels_file)
    columns = read_columns(column or ())
    if label_column not in ("label", "tags"):
        columns["label"] = label_column
    clips, about = _read(data, split, columns)
    labels = labels_of(clips, column=label_column)
    missing = sum(label is None for label in labels)
    if classes is not None:  # a label that is no class is told before anything is heard
        label_matrix([label for label in labels if label is not None], classes.names)
    groups_of(clips, column=group_column)
    if missing:
        say(f"note: {missing} of {len(clips)} clips have no {label_column} and are left out")
    clap, gallery = _embed(run, clips, precision, device, trust)
    return zero_shot_result(
        clap, gallery, task=task, label_column=label_column, classes=classes, templates=templates,
        group_column=group_column, without_label=missing, **about,
    )  # fmt: skip


def _templates(template: Sequence[str] | None, ensemble: bool) -> tuple[str, ...]:
    from clapkit.text import prompts

    if ensemble and template:
        raise SpecError("--ensemble brings its own templates: give either it or --template")
    templates = prompts.ensemble("sound") if ensemble else tuple(template or (prompts.DEFAULT,))
    for sentence in templates:
        prompts.fill(sentence, "dog")
    return templates


def _read(
    data: Sequence[Path], split: Sequence[str] | None, columns: Mapping[str, str]
) -> tuple[tuple[Clip, ...], dict[str, Any]]:
    """The clips, and what the protocol says about them."""
    from clapkit.data.manifest import read_all

    splits = read_splits(split or ())
    clips = read_all(data, columns=columns, splits=splits, need_text=False).clips
    return clips, {"data": [source.name for source in data], "split": splits or "all rows"}


def _embed(
    run: str, clips: Sequence[Clip], precision: str, device: str, trust: Sequence[str] | None
) -> tuple[Clap, Gallery]:
    from clapkit.cli.scoring import Gallery, load_both_sides

    clap = load_both_sides(run, device, precision, trust)
    gallery = Gallery.of(clap, clips)
    show_skipped(gallery.skipped)
    return clap, gallery


def _show(result: Result, *, json: Path | None, per_class: bool) -> None:
    console = results()
    if per_class:
        console.print(result.class_table())
    console.print(result.table())
    split = result.protocol["split"]
    named = split if isinstance(split, str) else "; ".join(f"{k} = {', '.join(v)}" for k, v in split.items())
    say(f"split: {named}; {result.n} clips scored, {result.protocol['skipped']} skipped")
    if json is not None:
        result.write_json(json)
        say(f"scores: {json}")
