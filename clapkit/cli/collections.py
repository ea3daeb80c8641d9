"""clapkit collections: a library as files of numpy, FAISS or Qdrant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clapkit.cli.inputs import open_store
from clapkit.cli.terminal import progress_wanted, say

_Folder = Annotated[str, typer.Argument(metavar="LIBRARY", help="Folder or URL written by `clapkit index`.")]
_To = Annotated[str, typer.Option("--to", help="numpy, faiss or qdrant.")]
_Out = Annotated[Path, typer.Option("--out", help="New folder for the collection.")]
_EXAMPLES = """
Examples:

clapkit collections lib --to numpy --out lib.numpy   (vectors.npy, and a line of JSON a row)

clapkit collections lib --to qdrant --out lib.qdrant   (open it with QdrantClient(path="lib.qdrant"))
"""


def add_to(app: typer.Typer) -> None:
    app.command("collections", epilog=_EXAMPLES)(collections)


def collections(folder: _Folder, to: _To, out: _Out) -> None:
    """Copy the vectors of a library, with all that is known of its rows, into a format that other tools read.

    A row is a window of a sound. Vectors have unit length: inner products are the scores of `clapkit search`. The
    space_id stands in collection.json: vectors of another model must not be mixed with these.
    """
    from clapkit.adapters.collections import export
    from clapkit.progress import ProgressBar

    store = open_store(folder, needs_model=False).store
    assert store is not None
    with ProgressBar("writing", len(store), shown=progress_wanted()) as bar:
        rows = export(store.view, out, to=to, on_rows=bar.update)
    say(f"{rows} rows of space {store.view.space.space_id}: {out}")
