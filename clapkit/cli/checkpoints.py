"""What the commands that take any checkpoint share: how it is named, found and read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from clapkit.errors import MissingExtraError

if TYPE_CHECKING:
    from clapkit.native import Loaded

SOURCES = "Checkpoint file or folder, model folder, run, hf://owner/name, hf://owner/name/file, or a short name."
Variant = Annotated[
    str | None,
    typer.Option("--variant", help="What the file does not say, such as the folder name it was published under."),
]


def read_checkpoint(
    name: str, *, variant: str | None, text: str | None = None, join: bool = False, trust: Sequence[str] | None
) -> Loaded:
    """The model behind a path, a name on the hub or a short name. Errors as `clapkit.load` raises them."""
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "torch", "Reading a checkpoint")
    from clapkit.checkpoints.hub import locate
    from clapkit.checkpoints.load import read_model

    spoken = None if text is None else locate(text)
    return read_model(locate(name), variant=variant, text=spoken, join=join, trust=tuple(trust or ()))
