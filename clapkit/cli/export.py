"""clapkit export: a model as graphs that run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clapkit.cli.checkpoints import SOURCES, Variant
from clapkit.cli.options import Trust
from clapkit.cli.terminal import say
from clapkit.errors import DataError, SpecError

_In = Annotated[str, typer.Argument(metavar="MODEL", help=SOURCES)]
_Out = Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the graphs.")]
_To = Annotated[str, typer.Option("--to", metavar="FORMAT", help="onnx.")]
_Text = Annotated[
    str | None,
    typer.Option("--text", help="For a file without a language side: the checkpoint or text encoder it belongs to."),
]


def add_to(app: typer.Typer) -> None:
    app.command("export", epilog="Example:  clapkit export run exported --to onnx")(export)


def export(
    model: _In, out: _Out, to: _To = "onnx", variant: Variant = None, text: _Text = None, trust: Trust = None
) -> None:
    """Write a model as ONNX: samples and token ids in, unit vectors out.

    The folder is a model for every command that embeds or searches, also where torch is not installed
    (pip install "clapkit[onnx]"). Its vectors are compared with those of torch; OUT/parity.json says how near they are.
    """
    if to != "onnx":
        raise SpecError(f"--to {to}: models are exported to onnx; for checkpoints of other libraries: clapkit convert")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"'{out}' exists already: choose another name, or remove it")
    from clapkit.api import load
    from clapkit.runtime.graphs.exported import is_exported

    if is_exported(model):
        raise DataError(f"'{model}' is an exported model already")
    clap = load(model, "cpu", provider="torch", variant=variant, text=text, trust=trust or ())
    from clapkit.runtime.export import export as write

    report = write(clap, out)
    for side in ("audio", "text"):
        if side in report:
            found = report[side]
            say(
                f"{side:<6} lowest cosine to torch {found['lowest_cosine']:.7f}, largest difference "
                f"{found['largest_error']:.1e}, over {found['count']}"
            )
    say(f"written: {out}   (space {clap.space_id})")
