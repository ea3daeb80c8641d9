"""clapkit shards: sound from a folder or manifest as tar shards, which travel and are read faster than small files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clapkit.cli.inputs import read_columns, read_splits
from clapkit.cli.options import Column, Split, Strict
from clapkit.cli.terminal import progress_wanted, say, show_skipped

_Sources = Annotated[list[Path], typer.Argument(help="Manifests, dataset folders, folders of sound or other shards.")]
_Out = Annotated[Path, typer.Option("--out", help="Folder for the shards.")]
_Size = Annotated[float, typer.Option("--size-mb", help="Megabytes of a shard at most.")]


def add_to(app: typer.Typer) -> None:
    app.command("shards", epilog="Example:  clapkit shards clips.csv --out shards --size-mb 512")(shards)


def shards(
    sources: _Sources,
    out: _Out,
    size_mb: _Size = 512.0,
    split: Split = None,
    column: Column = None,
    strict: Strict = False,
) -> None:
    """Write sound and what is known of it as tar shards in the format of webdataset.

    Sounds are copied as they are. --data takes the result: a shard, its folder, or "shards/shard-{000000..000004}.tar".
    """
    from clapkit.data.manifest import read_all
    from clapkit.data.shards import write_shards
    from clapkit.progress import ProgressBar

    manifest = read_all(sources, columns=read_columns(column or ()), splits=read_splits(split or ()), need_text=False)
    for source in manifest.report:
        say(str(source))
    with ProgressBar("writing", len(manifest), shown=progress_wanted()) as bar:
        written = write_shards(
            manifest.clips, out, size_mb=size_mb, progress=lambda done, total: bar.update(done, total)
        )
    show_skipped(written.skipped)
    size_mb = sum(path.stat().st_size for path in written.shards) / 1e6
    say(f"{written.clips} clips in {len(written.shards)} shard(s), {size_mb:.1f} MB: {out}")
    if strict and written.skipped:
        raise typer.Exit(1)
