"""The command `clapkit`: the list of verbs, and what happens to errors.

A ClapkitError is something the caller can put right: its message goes to standard error, without a traceback, and the
exit status is 2. With --debug (before the verb), or CLAPKIT_DEBUG=1, the traceback is shown.
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clapkit import __version__
from clapkit.cli import (
    bench,
    classify,
    collections,
    convert,
    demo,
    duplicates,
    embed,
    evaluate,
    export,
    index,
    inspect,
    playlist,
    recipes,
    search,
    serve,
    shards,
    tag,
    train,
)
from clapkit.cli.terminal import say
from clapkit.errors import ClapkitError


class _Doors(TyperGroup):
    """The group of all verbs, through which every call passes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClapkitError as error:
            if ctx.params.get("debug") or os.environ.get("CLAPKIT_DEBUG") == "1":
                raise
            say(f"error: {error}", by_each=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="clapkit",
    cls=_Doors,
    help="Train, evaluate and use models that join sound and language.",
    epilog="Start here:  clapkit demo --out demo   (six minutes: a small world of sound, a model, a report)",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"clapkit {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, not only its message.")
    ] = False,
) -> None:
    pass


_MODULES = (
    train,
    evaluate,
    embed,
    classify,
    index,
    search,
    tag,
    playlist,
    duplicates,
    serve,
    inspect,
    convert,
    export,
    collections,
    shards,
    bench,
    recipes,
    demo,
)
for _module in _MODULES:
    _module.add_to(app)


def _tell(shown: Any, message: Any, category: Any, filename: str, *more: Any, **others: Any) -> None:
    """A warning of ours is a line of words; those of other packages stay what Python makes of them (`shown`)."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        say(f"warning: {message}")
    else:
        shown(message, category, filename, *more, **others)


def main() -> None:
    """Entry point of the console script."""
    warnings.showwarning = partial(_tell, warnings.showwarning)
    # File names may hold what the terminal's encoding cannot: print a question mark rather than fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()


if __name__ == "__main__":
    main()
