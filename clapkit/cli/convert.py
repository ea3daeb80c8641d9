"""clapkit convert: a checkpoint of one library as that of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clapkit.cli.checkpoints import SOURCES, Variant, read_checkpoint
from clapkit.cli.options import Trust
from clapkit.cli.terminal import say
from clapkit.errors import DataError

_In = Annotated[str, typer.Argument(metavar="IN", help=SOURCES)]
_Out = Annotated[Path, typer.Argument(metavar="OUT", help="What to write; must not be there yet.")]
_To = Annotated[
    str, typer.Option("--to", metavar="LAYOUT", help="native (our folder), transformers (folder), laion (.pt file).")
]
_Text = Annotated[
    str | None,
    typer.Option("--text", help="For a file without a language side: the checkpoint or text encoder it belongs to."),
]


def add_to(app: typer.Typer) -> None:
    app.command("convert", epilog="Example:  clapkit convert 630k-audioset-best.pt clap --to transformers")(convert)


def convert(
    source: _In, out: _Out, to: _To = "native", variant: Variant = None, text: _Text = None, trust: Trust = None
) -> None:
    """Write a model in another layout: ours, that of transformers, or that of LAION.

    The weights stay what they are, and a model that the other layout cannot hold is refused. What a library does to
    sound before its model goes with the layout: that of LAION rounds samples to 16 bits, that of transformers does
    not. What was mapped, computed or left out on the way in is listed, and what is wrong with the model: that is
    written as it is, for a conversion mends nothing.
    """
    if out.exists():  # found out before minutes of reading
        raise DataError(f"'{out}' exists already: choose another name, or remove it")
    loaded = read_checkpoint(source, variant=variant, text=text, trust=trust)
    from clapkit.checkpoints.card import write_card
    from clapkit.checkpoints.health import problems
    from clapkit.checkpoints.known import KNOWN, short_name
    from clapkit.checkpoints.write import write_model

    written = write_model(loaded, out, to=to)
    if to == "native":
        write_card(written)
    say(str(loaded.report))
    known_as = short_name(loaded.folder)
    if known_as and (warning := KNOWN[known_as].warning):
        say(f"warning   {known_as}: {warning}")
    for problem in problems(loaded):
        say(f"problem   {problem}")
    say(f"written as {to}: {written}")
