"""clapkit train: from a recipe and captioned sound to a run folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clapkit.cli.inputs import read_columns, read_sets, read_splits
from clapkit.cli.options import Column, Data, Device, Split, Trust
from clapkit.cli.terminal import progress_wanted, results, say
from clapkit.data.clip import Clip

_Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="Name (`clapkit recipes list`) or module:attribute.")]
_Val = Annotated[list[Path] | None, typer.Option("--val", help="Evaluated at the end, never trained on. Repeatable.")]
_ValSplit = Annotated[
    list[str] | None,
    typer.Option("--val-split", metavar="COLUMN=a,b", help="Like --split, for --val (which --split leaves alone)."),
]
_Out = Annotated[Path, typer.Option("--out", help="Folder of the run; its model is written to RUN/model.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="key=value", help="Change a setting that exists: --set train.steps=500. Repeatable."),
]
_Scale = Annotated[str | None, typer.Option("--scale", help="The same method at another size: tiny, small, paper.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of --out.")]


def add_to(app: typer.Typer) -> None:
    app.command("train", epilog="Example:  clapkit train contrastive --data clips.csv --out run")(train)


def train(
    recipe: _Recipe,
    data: Data,
    out: _Out,
    val: _Val = None,
    split: Split = None,
    val_split: _ValSplit = None,
    column: Column = None,
    sets: _Set = None,
    scale: _Scale = None,
    resume: _Resume = False,
    device: Device = "auto",
    trust: Trust = None,
) -> None:
    """Train a recipe on captioned or labelled sound.

    With --val the finished model is scored: zero-shot where the clips have labels, retrieval where they have captions.
    The scores stand in RUN/val.json and in the last line of RUN/log.jsonl.
    """
    from clapkit import api
    from clapkit.data.manifest import read_all

    columns = read_columns(column or ())
    settings: dict[str, Any] = {key.replace(".", "__"): value for key, value in read_sets(sets or ()).items()}
    if ":" in recipe:
        sys.path.insert(0, os.getcwd())  # module:attribute may lie here, as with `python -m`
    chosen = api.find_recipe(recipe)
    manifest = read_all(data, columns=columns, splits=read_splits(split or ()))
    held_out = read_all(val, columns=columns, splits=read_splits(val_split or ())) if val else None
    say(manifest.describe())
    for source in manifest.report:
        say(str(source))
    if held_out is not None:
        _note_overlap(manifest.clips, held_out.clips)
    run = api.train(
        chosen,
        manifest.clips,
        out=out,
        resume=resume,
        scale=scale,
        device=device,
        progress=progress_wanted(),
        **settings,
    )
    _note_skipped(out)
    say(f"{run.steps} steps in {run.seconds:.0f} s: {run.model_path}")
    if held_out is not None:
        from clapkit.cli.scoring import score_run

        clap = api.load(run.path, device, trust=trust or ())
        for report in score_run(clap, held_out.clips, out):
            results().print(report.table())


def _note_overlap(trained: Sequence[Clip], held_out: Sequence[Clip]) -> None:
    """A score on clips that were trained on is not one: say how many there are."""
    known = {(str(clip.audio), clip.start_s) for clip in trained}
    shared = sum((str(clip.audio), clip.start_s) in known for clip in held_out)
    if shared:
        say(f"note: {shared} of the {len(held_out)} clips of --val are trained on, so that its scores say little")


def _note_skipped(run: Path) -> None:
    import json

    from clapkit.cli.terminal import show_skipped

    skipped = json.loads((run / "data.json").read_bytes())["skipped"]
    show_skipped([(entry["source"], entry["reason"]) for entry in skipped])
