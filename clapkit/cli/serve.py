"""clapkit serve: an index behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clapkit.cli.inputs import model_options
from clapkit.cli.options import Device, Precision, Provider, Threads, Trust
from clapkit.cli.terminal import say
from clapkit.errors import MissingExtraError, ModelError, SearchIndexError

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.server.rows import SoundIndex, StoreRows

_Library = Annotated[str, typer.Argument(metavar="LIBRARY", help="Folder or URL that `clapkit index` wrote.")]
_Model = Annotated[str | None, typer.Option("--model", help="Any model; default: the one that made the index.")]
_Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 lets other machines in.")]
_Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: a free one.")]
_Key = Annotated[
    str | None,
    typer.Option("--api-key", envvar="CLAPKIT_API_KEY", help="Key that every request has to bring.", show_envvar=True),
]
_Roots = Annotated[
    list[Path] | None,
    typer.Option("--root", help="Folder below which sounds may be read. Default: the folders of the indexed files."),
]
_Upload = Annotated[float, typer.Option("--max-upload-mb", min=0.001, max=1e5, help="Longest upload, in megabytes.")]
_Sound = Annotated[float, typer.Option("--max-sound-s", min=0.1, help="Longest sound that is uploaded, in seconds.")]
_Clients = Annotated[int, typer.Option("--max-per-client", min=1, help="Requests of one address at once.")]
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_to(app: typer.Typer) -> None:
    app.command("serve", epilog="Example:  clapkit serve library --port 8000")(serve)


def serve(
    library: _Library,
    model: _Model = None,
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    api_key: _Key = None,
    root: _Roots = None,
    max_upload_mb: _Upload = 25.0,
    max_sound_s: _Sound = 120.0,
    max_per_client: _Clients = 64,
    precision: Precision = "fp32",
    device: Device = "auto",
    provider: Provider = None,
    threads: Threads = None,
    trust: Trust = None,
) -> None:
    """Search a library over HTTP: /docs lists what there is to ask.

    What `clapkit index` changes meanwhile is served within seconds, another model too. Only indexed files can be read.
    Uploads are kept in memory while they are heard, and never stored.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve", "`clapkit serve`") from None
    from clapkit.api import load
    from clapkit.server.app import create_app
    from clapkit.server.limits import Limits
    from clapkit.server.run import server_of

    options = model_options(
        device=device, precision=precision, provider=provider, trust=trust, compile=False, calibration=None
    )
    how = {**options, "threads": threads}
    rows, clap = _opened(library, load(model, **how) if model else None, how)
    _tell_of_missing(rows)
    limits = Limits(body_bytes=round(max_upload_mb * 1e6), sound_s=max_sound_s, requests_per_client=max_per_client)
    app = create_app(
        rows, clap, limits=limits, api_key=api_key, roots=root or (), model_of=lambda rows: _model_of(rows, how)
    )
    if host not in _LOOPBACK and api_key is None:
        say(f"warning: {host} can be reached from other machines, and no --api-key is set: whoever reaches it may ask")
    server = server_of(app, limits=limits, host=host, port=port)
    listening = server.config.bind_socket()
    listening.listen(server.config.backlog)  # who reads the address below may ask at once
    say(f"{len(rows)} sounds at http://{host}:{listening.getsockname()[1]} (stop with Ctrl+C)")
    server.run(sockets=[listening])


def _opened(library: str, clap: Clap | None, how: dict[str, Any]) -> tuple[SoundIndex, Clap]:
    """The rows of a library of either kind, and the model that goes with them."""
    from clapkit.library import Index
    from clapkit.search.store import Store
    from clapkit.server.rows import ExactRows, StoreRows

    index = Index.open(library, clap, **how)
    if index.model is None:
        raise SearchIndexError(f"the model that made {library} is not where it was: name it with --model RUN")
    if index.note:
        say(f"note: {index.note}")
    if index.exact is not None:
        return ExactRows(index.exact), index.model
    assert index.store is not None, "a library is one or the other"
    follows = index.store.place.read().active == index.model.space_id
    return StoreRows(Store.open(library) if follows else index.store), index.model


def _model_of(rows: StoreRows, how: dict[str, Any]) -> Clap:
    """The model of a space that the library has been switched to."""
    from clapkit.api import load

    place = rows.store.place.model_of(rows.view.space)
    if place is None:
        raise ModelError(f"the model of space {rows.space_id} is not where it was: start again with --model RUN")
    say(f"note: the library has been switched to another model, {place}: loading it")
    return load(place, **how)


def _tell_of_missing(rows: SoundIndex) -> None:
    files = list(rows.files())
    missing = sum(not os.path.isfile(file) for file in files)
    if missing:
        say(
            f"note: {missing} of {len(files)} indexed files are not where they were. Paths that do not begin at the "
            "root count from the folder that the server is started in"
        )
