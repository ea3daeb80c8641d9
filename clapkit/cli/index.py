"""clapkit index: a library of sounds made searchable, and kept in step with its folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from clapkit.cli.indexing import Library, Settings
from clapkit.cli.inputs import model_options, read_columns
from clapkit.cli.options import Calibration, Column, Compile, Device, Precision, Provider, Strict, Threads, Trust
from clapkit.errors import DataError, SearchIndexError, SpecError

_Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCES",
        help="Folders, sound files and manifests (CSV, JSONL, parquet). Or one library, to bring it up to date.",
    ),
]
_Out = Annotated[str | None, typer.Option("--out", help="The library: a folder or URL, made or brought up to date.")]
_Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Run, model folder, checkpoint, short name or hf://owner/name. A library remembers its model.",
    ),
]
_Watch = Annotated[bool, typer.Option("--watch", help="Go on, and take in changes of the folders as they happen.")]
_Exact = Annotated[
    bool, typer.Option("--exact", help="Never build a vector index: compare with every row, above 200,000 too.")
]
_Switch = Annotated[
    str | None, typer.Option("--switch-model", metavar="MODEL", help="Embed a library with another model, then switch.")
]
_Drop = Annotated[bool, typer.Option("--drop-old", help="Remove the vectors of models that were switched from.")]
_Forget = Annotated[
    list[str] | None, typer.Option("--forget", metavar="SOURCE", help="Take a folder, file or manifest out again.")
]
_Engine = Annotated[str, typer.Option("--engine", help="local, or ray: workers of a Ray cluster.")]
_Address = Annotated[str | None, typer.Option("--address", help="With --engine ray: the cluster; none: this machine.")]
_Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes that decode; with --engine ray: models at work.")
]

_EXAMPLES = """
Examples:

clapkit index recordings/ --model run --out lib   (make a library)

clapkit index lib   (bring it up to date: new, changed, moved and deleted files)

clapkit index more/ sounds.csv --out lib   (add a folder, and a manifest with tags)

clapkit index lib --watch   (keep it up to date)

clapkit index lib --switch-model better   (re-embed it while it is searched)
"""


def add_to(app: typer.Typer) -> None:
    app.command("index", epilog=_EXAMPLES)(index)


def index(
    paths: _Paths,
    model: _Model = None,
    out: _Out = None,
    column: Column = None,
    watch: _Watch = False,
    exact: _Exact = False,
    switch_model: _Switch = None,
    drop_old: _Drop = False,
    forget: _Forget = None,
    strict: Strict = False,
    workers: _Workers = None,
    engine: _Engine = "local",
    address: _Address = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    provider: Provider = None,
    threads: Threads = None,
    trust: Trust = None,
    compile: Compile = False,
    calibration: Calibration = None,
) -> None:
    """Embed sounds window by window into a library, to find them by words or by sound with `clapkit search`.

    The library remembers its model and its sources. The same command again embeds only what is new or changed, follows
    files that were moved, and forgets what was deleted. It may be killed at any moment: the same command goes on.
    What could not be used stands in LIBRARY/failures.json.
    """
    _check_engine(engine, address, watch=watch)
    asked = _asked(paths, out)
    options = model_options(
        device=device, precision=precision, provider=provider, trust=trust, compile=compile, calibration=calibration
    )
    settings = Settings(
        options=options,
        threads=threads,
        workers=workers,
        on_ray=engine == "ray",
        address=address,
        exact=exact,
        columns=read_columns(column or ()),
    )
    with Library(asked.library, settings) as library:
        if switch_model or drop_old or forget:
            if asked.sources or watch or model:
                raise SpecError("--switch-model, --drop-old and --forget change a library: name it alone, no --model")
            raise typer.Exit(_changed(library, switch_model, forget or [], drop_old=drop_old, strict=strict))
        library.open(model, asked.sources)
        raise typer.Exit(library.follow(strict=strict) if watch else library.update(strict=strict))


@dataclass(frozen=True)
class _Asked:
    library: str
    sources: list[str]


def _asked(paths: list[str], out: str | None) -> _Asked:
    """The library, and what is to be added to it. DataError and SearchIndexError for what can be neither."""
    from clapkit.library import RENEW, is_exact
    from clapkit.search.place import holds_store

    library = out if out is not None else paths[0]
    if is_exact(library):
        raise SearchIndexError(f"{library} is an index of the older kind, which is written once: {RENEW}")
    if out is not None:
        return _Asked(library, [] if paths == [out] else paths)
    if len(paths) > 1 or not holds_store(library):
        raise DataError(
            f"{' '.join(paths[:3])}: is no library, and none is named. Make one with --out LIBRARY --model MODEL, "
            "or name one library alone to bring it up to date"
        )
    return _Asked(library, [])


def _check_engine(engine: str, address: str | None, *, watch: bool) -> None:
    if engine not in ("local", "ray"):
        raise SpecError(f"--engine is local or ray, not {engine!r}")
    if engine == "local" and address is not None:
        raise SpecError("--address belongs to --engine ray")
    if engine == "ray" and watch:
        raise SpecError("--watch works with --engine local: a cluster is for the first filling")


def _changed(library: Library, model: str | None, forget: list[str], *, drop_old: bool, strict: bool) -> int:
    """Sources forgotten, then another model, then old vectors removed; the exit status."""
    status = 0
    library.claim()
    for source in forget:
        library.forget(source)
    if model is not None:
        status = library.switch(model, strict=strict)
    if drop_old:
        library.drop_old()
    return status
