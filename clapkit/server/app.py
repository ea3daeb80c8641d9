"""The server as an application: a model and an index behind HTTP."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.responses import HTMLResponse

from clapkit import __version__
from clapkit.api import Clap
from clapkit.errors import ClapkitError, SpaceMismatchError
from clapkit.server.gate import Gate
from clapkit.server.house import House
from clapkit.server.limits import Limits
from clapkit.server.metrics import Meters
from clapkit.server.reference import reference_page
from clapkit.server.refusals import RESPONSES, add_handlers
from clapkit.server.routes import overview, pages, search, sounds, state, vectors
from clapkit.server.rows import SoundIndex, StoreRows
from clapkit.server.shelf import Shelf

_ABOUT = (
    "Sounds by words and by sounds. Every answer that is none is JSON with the reason: "
    '{"error": {"message": ..., "type": ...}}'
)


def create_app(
    index: SoundIndex,
    clap: Clap,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    roots: Sequence[str | os.PathLike[str]] = (),
    model_of: Callable[[StoreRows], Clap] | None = None,
) -> FastAPI:
    """An ASGI application that answers searches in `index` with the model `clap`.

    index     `rows.StoreRows` of a store, which is followed when it changes; `rows.ExactRows` of an index of the old
              kind; or anything else that is a `SoundIndex`
    limits    bounds of a request and of all of them together
    api_key   if given, every route but /healthz and the files of the page wants it, as `Authorization: Bearer KEY` or
              `X-API-Key: KEY`
    roots     folders below which files may be read; default: exactly the folders that hold indexed files
    model_of  loads the model of the rows of a store that has been switched to another space; without it the server
              goes on in the space that it began in

    Decoders and threads live as long as the application runs (its lifespan). Raises SpaceMismatchError for an index of
    another space than that of the model, ClapkitError for an empty key, SearchIndexError for a root that is no folder.
    """
    if clap.space_id != index.space_id:
        raise SpaceMismatchError(index.space_id, clap.space_id)
    if api_key is not None and not api_key.strip():
        raise ClapkitError("the API key is empty: give one that cannot be guessed, or None for a server without")
    bounds, meters = limits or Limits(), Meters()
    shelf = Shelf(index.files(), roots=roots)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.house = House((index, clap, shelf), limits=bounds, meters=meters, roots=roots, model_of=model_of)
        try:
            yield
        finally:
            await app.state.house.close()

    # The pages that FastAPI would make load scripts from foreign hosts: /docs is our own.
    app = FastAPI(
        title="clapkit",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        responses=RESPONSES,
        docs_url=None,
        redoc_url=None,
    )
    add_handlers(app)
    app.add_middleware(Gate, limits=bounds, api_key=api_key, meters=meters)
    for routes in (search, overview, vectors, sounds, state, pages):
        app.include_router(routes.router)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    return app
