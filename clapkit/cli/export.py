"""clapkit export: a model as graphs that run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clapkit.cli.checkpoints import SOURCES, Variant
from clapkit.cli.inputs import find_sounds
from clapkit.cli.options import Calibration, Trust
from clapkit.cli.terminal import say
from clapkit.errors import DataError, SpecError

_In = Annotated[str, typer.Argument(metavar="MODEL", help=SOURCES)]
_Out = Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the graphs.")]
_To = Annotated[str, typer.Option("--to", metavar="FORMAT", help="onnx.")]
_Text = Annotated[
    str | None,
    typer.Option("--text", help="For a file without a language side: the checkpoint or text encoder it belongs to."),
]


_Int8 = Annotated[bool, typer.Option("--int8", help="Write a second graph of the sound side, in 8-bit integers.")]


def add_to(app: typer.Typer) -> None:
    app.command("export", epilog="Example:  clapkit export run exported --to onnx")(export)


def export(
    model: _In,
    out: _Out,
    to: _To = "onnx",
    int8: _Int8 = False,
    calibration: Calibration = None,
    variant: Variant = None,
    text: _Text = None,
    trust: Trust = None,
) -> None:
    """Write a model as ONNX: samples and token ids in, unit vectors out.

    The folder is a model for every command that embeds or searches, also where torch is not installed
    (pip install "clapkit[onnx]"). Its vectors are compared with those of torch; OUT/parity.json says how near they are.
    """
    if to != "onnx":
        raise SpecError(f"--to {to}: models are exported to onnx; for checkpoints of other libraries: clapkit convert")
    if calibration and not int8:
        raise SpecError("--calibration belongs to --int8")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"'{out}' exists already: choose another name, or remove it")
    from clapkit.api import load
    from clapkit.runtime.graphs.exported import is_exported

    if is_exported(model):
        raise DataError(f"'{model}' is an exported model already")
    clap = load(model, "cpu", provider="torch", variant=variant, text=text, trust=trust or ())
    from clapkit.runtime.export import export as write

    ranges, label = None, ""
    if int8:
        from clapkit.opening import label_of, ranges_of

        sounds = None if calibration is None else find_sounds(calibration).files
        ranges = ranges_of(clap.loaded, sounds)
        label = label_of(ranges, sounds)
    report = write(clap, out, ranges=ranges, label=label)
    for side in ("audio", "audio_int8", "text"):
        if side in report:
            found = report[side]
            say(
                f"{side:<10} lowest cosine to torch {found['lowest_cosine']:.7f}, largest difference "
                f"{found['largest_error']:.1e}, over {found['count']}"
            )
    say(f"written: {out}   (space {clap.space_id})")
