"""The page to search and listen with, and the files that it is made of."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import HTMLResponse, Response

from clapkit.server.refusals import Refusal

router = APIRouter(include_in_schema=False)

PREFIX = "/page/"
_FOLDER = Path(__file__).resolve().parent.parent / "pages"
_KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but its own files, its own server, and what it has made of their answers (blob:). The nonce is for the style
# that wavesurfer.js writes into its shadow tree.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


@router.head("/")
@router.get("/")
async def page() -> HTMLResponse:
    """The page itself: it asks the other routes for everything that is in it."""
    nonce = secrets.token_urlsafe(16)
    html = _index().replace("{nonce}", nonce)
    return HTMLResponse(html, headers={**_ALWAYS, "Content-Security-Policy": _POLICY.format(nonce=nonce)})


@router.head(PREFIX + "{name:path}")
@router.get(PREFIX + "{name:path}")
async def part(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A script, style or picture of the page; only what was there when the first of them was asked for."""
    found = _files().get(name)
    if found is None:
        raise Refusal(404, f"the page has no file '{name}'")
    content, kind, tag = found
    headers = {**_ALWAYS, "ETag": tag}
    if if_none_match == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@cache
def _index() -> str:
    return (_FOLDER / "index.html").read_text(encoding="utf-8")


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Content, media type and fingerprint of each file by its name: a request is looked up, never made into a path."""
    found = {}
    for path in sorted(_FOLDER.rglob("*")):
        if path.is_file() and path.suffix in _KINDS:
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.relative_to(_FOLDER).as_posix()] = (content, _KINDS[path.suffix], tag)
    return found
