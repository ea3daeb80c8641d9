"""clapkit index: a folder of sound made searchable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clapkit.cli.inputs import find_sounds, model_options
from clapkit.cli.options import Calibration, Compile, Device, Model, Paths, Precision, Provider, Strict, Threads, Trust
from clapkit.cli.sounds import write_failures
from clapkit.cli.terminal import progress_wanted, say, show_notes, show_skipped
from clapkit.errors import DataError

_Out = Annotated[Path, typer.Option("--out", help="New folder for the index.")]


def add_to(app: typer.Typer) -> None:
    app.command("index", epilog="Example:  clapkit index recordings/ --model run --out recordings.index")(index)


def index(
    paths: Paths,
    model: Model,
    out: _Out,
    strict: Strict = False,
    precision: Precision = "fp32",
    device: Device = "auto",
    provider: Provider = None,
    threads: Threads = None,
    trust: Trust = None,
    compile: Compile = False,
    calibration: Calibration = None,
) -> None:
    """Embed the sounds of a folder once, to search them by words or by sound with `clapkit search`.

    The index remembers its model. What was skipped stands in INDEX/failures.json.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"--out {out} exists: remove it, or name a new folder for the index")
    sounds = find_sounds(paths)
    from clapkit.api import load
    from clapkit.library import Index

    given = {"device": device, "precision": precision, "provider": provider}
    options = model_options(**given, trust=trust, compile=compile, calibration=calibration)
    clap = load(model, threads=threads, **options)
    notes: list[tuple[str, str]] = []
    built, failures = Index.build(
        out, clap, sounds.files, progress=progress_wanted(), on_note=lambda path, note: notes.append((path, note))
    )
    skipped = [*sounds.skipped, *((f.source, f.reason) for f in failures)]
    write_failures(out / "failures.json", skipped)
    show_notes(notes)
    show_skipped(skipped)
    say(f"{len(built)} embedded, {len(skipped)} skipped: {out}")
    raise typer.Exit(int(len(built) == 0 or (strict and bool(skipped))))
