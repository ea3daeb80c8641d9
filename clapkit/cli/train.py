"""clapkit train: from a recipe and captioned sound to a run folder; from a given model, with what that changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clapkit.cli.checkpoints import read_checkpoint
from clapkit.cli.inputs import read_columns, read_sets, read_splits
from clapkit.cli.options import Column, Data, Device, Split, Trust
from clapkit.cli.terminal import progress_wanted, results, say, speaks, table, warnings_said
from clapkit.data.clip import Clip
from clapkit.errors import RecipeError

if TYPE_CHECKING:
    from clapkit.data.manifest import Manifest
    from clapkit.native import Loaded
    from clapkit.recipe import Recipe
    from clapkit.training.loop import Run

_Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name (`clapkit recipes list`) or module:attribute.")]
_Val = Annotated[list[Path] | None, typer.Option("--val", help="Evaluated at the end, never trained on. Repeatable.")]
_ValSplit = Annotated[
    list[str] | None,
    typer.Option("--val-split", metavar="COLUMN=a,b", help="Like --split, for --val (which --split leaves alone)."),
]
_Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; its model is written to RUN/model.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="key=value", help="Change a setting that exists: --set train.steps=500. Repeatable."),
]
_Scale = Annotated[str | None, typer.Option("--scale", help="The same method at another size: tiny, small, paper.")]
_From = Annotated[
    str | None,
    typer.Option("--from", metavar="CHECKPOINT", help="Model that `finetune` trains further: any checkpoint or run."),
]
_Variant = Annotated[str | None, typer.Option("--variant", help="Settings that the checkpoint of --from lacks.")]
_Text = Annotated[
    str | None,
    typer.Option("--text", help="Language side for a checkpoint of --from without one: a checkpoint or text encoder."),
]
_Old = Annotated[
    list[Path] | None,
    typer.Option("--old", help="Clips of what the model could do before: how much of it is forgotten. Repeatable."),
]
_OldSplit = Annotated[
    list[str] | None, typer.Option("--old-split", metavar="COLUMN=a,b", help="Like --split, for --old.")
]
_HoldOut = Annotated[
    float, typer.Option("--hold-out", help="With --from and without --val: share of --data to measure on.")
]
_Eval = Annotated[
    list[Path] | None,
    typer.Option("--eval-data", help="Scored on while it trains (evaluate.every_steps), never trained on. Repeatable."),
]
_EvalSplit = Annotated[
    list[str] | None, typer.Option("--eval-split", metavar="COLUMN=a,b", help="Like --split, for --eval-data.")
]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of --out.")]
_Plan = Annotated[
    bool, typer.Option("--plan", help="Say what it would take (steps, memory, hours, hardware), and do nothing.")
]
_Timing = Annotated[
    bool, typer.Option("--timing/--no-timing", help="With --plan: run a few steps on noise to estimate the hours.")
]
_Workers = Annotated[
    int,
    typer.Option("--workers", min=0, help="Threads that make batches ahead; any number gives the same result."),
]
_Log = Annotated[
    str | None,
    typer.Option("--log", metavar="a,b", help="Show the log elsewhere too: tensorboard, trackio, wandb."),
]


def add_to(app: typer.Typer) -> None:
    app.command("train", epilog="Example:  clapkit train contrastive --data clips.csv --out run")(train)


def train(
    recipe: _Recipe,
    data: Data,
    out: _Out = None,
    start: _From = None,
    val: _Val = None,
    split: Split = None,
    val_split: _ValSplit = None,
    eval_data: _Eval = None,
    eval_split: _EvalSplit = None,
    old: _Old = None,
    old_split: _OldSplit = None,
    hold_out: _HoldOut = 0.2,
    column: Column = None,
    sets: _Set = None,
    scale: _Scale = None,
    resume: _Resume = False,
    device: Device = "auto",
    variant: _Variant = None,
    text: _Text = None,
    trust: Trust = None,
    log: _Log = None,
    workers: _Workers = 1,
    plan: _Plan = False,
    timing: _Timing = True,
) -> None:
    """Train a recipe on captioned or labelled sound.

    With --val the finished model is scored: zero-shot where the clips have labels, retrieval where they have captions.
    The scores stand in RUN/val.json and in the last line of RUN/log.jsonl.
    With --eval-data the model is scored every 200 steps (--set evaluate.every_steps=50), in RUN/log.jsonl and --log.

    With --from, a given model is trained further (recipe finetune). It is scored before and after, on clips that are
    not trained on, and on those of --old; RUN/finetune.json says what was gained and what was forgotten.
    """
    chosen = _resolved(recipe, scale, sets or (), is_evaluated=bool(eval_data))
    place = None if plan else _Place(out, resume=resume, device=device, log=log, workers=workers)
    _check_start(chosen, start, [name for name, given in (("--old", old), ("--text", text)) if given])
    read = _Reader(columns=read_columns(column or ()))
    manifest = read(data, split)
    held_out = read(val, val_split).clips if val else ()
    before = read(old, old_split).clips if old else ()
    say(manifest.describe())
    for source in manifest.report:
        say(str(source))
    _note_overlap(manifest.clips, held_out, "--val")
    _note_overlap(manifest.clips, before, "--old")
    if eval_data and place is not None:
        place.judge(read(eval_data, eval_split).clips, chosen, trained=manifest.clips)
    given = None
    if start is not None:
        given = _Given(start, device=device, variant=variant, text=text, trust=tuple(trust or ()))
    if place is None:
        _show_plan(chosen, manifest.clips, given, device=device, timing=timing)
    elif given is not None:
        _tune(chosen, manifest.clips, given, place, val=held_out, old=before, hold_out=hold_out)
    else:
        _train(chosen, manifest.clips, place, val=held_out, trust=tuple(trust or ()))


class _Place:
    """Where a run is written and shown, and the arguments of `training.loop.train` that say so."""

    def __init__(self, out: Path | None, *, resume: bool, device: str, log: str | None, workers: int) -> None:
        from clapkit.opening import need_torch

        if out is None:
            raise RecipeError("say where the run is to be written: --out FOLDER (or --plan, to see what it would take)")
        need_torch("Training")
        from clapkit.training.log import check_services

        services = tuple(name.strip() for name in log.split(",")) if log else ()
        check_services(services)
        self.out = out
        self.device = device
        given = {"out": out, "resume": resume, "device": device, "services": services, "workers": workers}
        self.arguments: dict[str, Any] = {**given, "progress": progress_wanted()}

    def judge(self, clips: Sequence[Clip], recipe: Recipe, *, trained: Sequence[Clip]) -> None:
        """Have the run scored on `clips` as it goes."""
        from clapkit.judging import judge_by

        _note_overlap(trained, clips, "--eval-data")
        self.arguments["judge"] = judge_by(clips, recipe, shown=progress_wanted())


def _run(recipe: Recipe, clips: Sequence[Clip], place: _Place, *, start: Loaded | None = None) -> Run:
    from clapkit.training.loop import train as train_model

    with warnings_said():
        run = train_model(recipe, clips, start=start, **place.arguments)
    assert run is not None, "only stop_at_step ends a run early"
    return run


def _train(recipe: Recipe, clips: Sequence[Clip], place: _Place, *, val: Sequence[Clip], trust: Sequence[str]) -> None:
    from clapkit import api

    run = _run(recipe, clips, place)
    if not speaks():
        return
    _finish(run, place.out)
    if val:
        from clapkit.cli.scoring import score_run

        for report in score_run(api.load(place.out, place.device, trust=tuple(trust)), val, place.out):
            results().print(report.table())


@dataclass(frozen=True)
class _Reader:
    columns: Mapping[str, str]

    def __call__(self, sources: Sequence[Path], splits: Sequence[str] | None) -> Manifest:
        from clapkit.data.manifest import read_all

        return read_all(sources, columns=self.columns, splits=read_splits(splits or ()))


@dataclass(frozen=True)
class _Given:
    """The model of --from, as it is to be loaded."""

    path: str
    device: str
    variant: str | None
    text: str | None
    trust: tuple[str, ...]

    def load(self) -> Loaded:
        return read_checkpoint(self.path, variant=self.variant, text=self.text, join=True, trust=self.trust)


def _resolved(name: str, scale: str | None, sets: Sequence[str], *, is_evaluated: bool) -> Recipe:
    from clapkit import cookbook

    if ":" in name:
        sys.path.insert(0, os.getcwd())  # module:attribute may lie here, as with `python -m`
    chosen = cookbook.find_recipe(name)
    chosen = chosen if scale is None else chosen.at(scale)
    if is_evaluated:
        from clapkit.judging import evaluated

        chosen = evaluated(chosen)
    for key, value in read_sets(sets).items():
        chosen = chosen.with_set(key, value)
    return chosen


def _show_plan(recipe: Recipe, clips: Sequence[Clip], given: _Given | None, *, device: str, timing: bool) -> None:
    from clapkit.opening import need_torch

    need_torch("Training")
    import torch

    from clapkit.training.plan import plan

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    made = plan(recipe, clips, start=None if given is None else given.load(), device=device, timing=timing)
    results().print(table("plan", ("what", "how much"), made.rows()))


def _check_start(recipe: Recipe, start: str | None, needing: Sequence[str]) -> None:
    """Refuse at once what `training.beginning` would refuse after the data has been read."""
    if start is None and recipe.tune is not None:
        raise RecipeError("this recipe trains a model further: say which with --from CHECKPOINT")
    if start is not None and recipe.tune is None:
        raise RecipeError("--from is for recipes that train a given model further, such as finetune")
    if start is None and needing:
        raise RecipeError(f"{' and '.join(needing)} belong to a model that is given with --from")


def _tune(
    recipe: Recipe,
    clips: Sequence[Clip],
    given: _Given,
    place: _Place,
    *,
    val: Sequence[Clip],
    old: Sequence[Clip],
    hold_out: float,
) -> None:
    """Score the given model, train it further, score the result."""
    from clapkit import api
    from clapkit.cli import tuning

    trained, new = (clips, val) if val else tuning.set_aside(clips, share=hold_out)
    measured = {tuning.NEW: new, tuning.OLD: old}
    classes = {tuning.NEW: sorted({clip.label for clip in clips if clip.label})}
    loaded = given.load()
    say(f"{given.path}: {loaded.report.family}, {loaded.space_id}")
    # Of processes that torchrun started together the first alone measures; the others wait where the run begins.
    before = tuning.Measured(api.Clap(loaded, device=given.device), measured, classes=classes) if speaks() else None
    run = _run(recipe, trained, place, start=loaded)
    if before is None:
        return
    out = place.out
    _finish(run, out)
    del loaded
    after = tuning.Measured(api.load(out, given.device, trust=given.trust), measured, classes=classes)
    change = before.change_to(after, given=given.path, steps=run.steps, trained_on=len(trained))
    tuning.write_change(change, out)
    results().print(change.table())
    say(f"in full: {out / 'finetune.json'}")


def _finish(run: Run, out: Path) -> None:
    _note_skipped(out)
    say(f"{run.steps} steps in {run.seconds:.0f} s: {run.model_path}")


def _note_overlap(trained: Sequence[Clip], held_out: Sequence[Clip], option: str) -> None:
    """A score on clips that were trained on is not one: say how many there are."""
    known = {(str(clip.audio), clip.start_s) for clip in trained}
    shared = sum((str(clip.audio), clip.start_s) in known for clip in held_out)
    if shared:
        say(f"note: {shared} of the {len(held_out)} clips of {option} are trained on, so that its scores say little")


def _note_skipped(run: Path) -> None:
    import json

    from clapkit.cli.terminal import show_skipped

    skipped = json.loads((run / "data.json").read_bytes())["skipped"]
    show_skipped([(entry["source"], entry["reason"]) for entry in skipped])
