"""Whether the server is well, and what it counted."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from clapkit import __version__
from clapkit.server.refusals import AsciiJSON
from clapkit.server.routes.shapes import AtDesk, State

router = APIRouter()


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=State, summary="What is served; needs no key")
async def healthz(desk: AtDesk) -> AsciiJSON:
    """Answers while the server lives."""
    index = desk.index
    about = {"rows": len(index), "dimension": index.dimension, "space_id": index.space_id}
    return AsciiJSON({"status": "ok", **about, "family": desk.clap.family, "version": __version__})


@router.get("/metrics", response_class=Response, summary="Counters in the format of Prometheus")
async def metrics(desk: AtDesk) -> Response:
    """Requests by route and status, times, batch sizes, rows."""
    return Response(desk.staff.meters.page(len(desk.index)), media_type="text/plain; version=0.0.4; charset=utf-8")
