"""Embeddings and labels of what a request brings."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clapkit.server.desk import Desk
from clapkit.server.limits import checked_count, checked_texts
from clapkit.server.refusals import AsciiJSON, Refusal
from clapkit.server.routes.shapes import AtDesk, Embeddings, Labels, form_body
from clapkit.server.uploads import read_form

router = APIRouter()


class EmbeddingRequest(BaseModel):
    """What OpenAI's embeddings take: `model` and `user` are read and ignored, other fields refused."""

    model_config = ConfigDict(extra="forbid", title="EmbeddingRequest")

    input: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="must be the dimension of the model, if given")
    user: str | None = None


_JSON = {"application/json": {"schema": EmbeddingRequest.model_json_schema()}}
_SOUND = form_body(sound_required=True)["requestBody"]["content"]
_EITHER = {"requestBody": {"required": True, "content": {**_JSON, **_SOUND}}}
_LABELS: dict[str, Any] = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
_WORDS: dict[str, Any] = {"type": "string", "minLength": 1}
_TOP: dict[str, Any] = {"type": "integer", "minimum": 1}


@router.post("/embed", response_model=Embeddings, summary="Embed texts or a sound", openapi_extra=_EITHER)
@router.post("/v1/embeddings", response_model=Embeddings, summary="The same for OpenAI clients", openapi_extra=_EITHER)
async def embed(request: Request, desk: AtDesk) -> AsciiJSON:
    """Unit-norm vectors of texts (JSON) or of one sound (multipart), in the shape of OpenAI's embeddings."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        return await _embed_texts(await request.body(), desk)
    form = await read_form(request, desk.limits, fields=(), others="application/json")
    if form.sound is None:
        raise Refusal(422, "the form has no file 'sound': send one, or texts as application/json")
    return AsciiJSON(_embeddings(desk, (await desk.sound_vector(form.sound))[None]))


@router.post(
    "/classify",
    response_model=Labels,
    summary="Which label fits a sound",
    openapi_extra=form_body(sound_required=False, id=_WORDS, labels=_LABELS, template=_WORDS, top_k=_TOP),
)
async def classify(request: Request, desk: AtDesk) -> AsciiJSON:
    """Labels with probabilities for an uploaded sound, or for the row `id`.

    `labels` comes once for each label; `template` makes a sentence of it, "this is the sound of {}" unless given.
    """
    form = await read_form(request, desk.limits, fields=("id", "labels", "template", "top_k"))
    id, limits = form.one("id"), desk.limits
    if (form.sound is None) == (id is None):
        raise Refusal(422, "name the sound once: either a file 'sound' or the 'id' of a row")
    labels = checked_texts(form.words.get("labels", []), limits, what="label", most=limits.labels)
    template = form.one("template")
    if template is not None:
        (template,) = checked_texts([template], limits, what="template", most=1)
    top_k = checked_count(form.number("top_k", len(labels)), name="top_k", most=limits.labels)
    audio_D = await desk.vector(id) if id is not None else await desk.sound_vector(form.sound or b"")
    found = await desk.labels(audio_D, labels, template=template)
    return AsciiJSON({"labels": found[:top_k]})


async def _embed_texts(body: bytes, desk: Desk) -> AsciiJSON:
    try:
        wanted = EmbeddingRequest.model_validate_json(body)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:5])
        raise Refusal(422, f"the JSON cannot be used: {told}") from None
    if wanted.dimensions not in (None, desk.index.dimension):
        raise Refusal(422, f"dimensions is {wanted.dimensions}: this model has {desk.index.dimension}")
    given = [wanted.input] if isinstance(wanted.input, str) else wanted.input
    texts = checked_texts(given, desk.limits, what="text", most=desk.limits.texts)
    vectors_ND = await desk.text_vectors(texts)
    return AsciiJSON(_embeddings(desk, vectors_ND, as_base64=wanted.encoding_format == "base64"))


def _embeddings(desk: Desk, vectors_ND: np.ndarray, *, as_base64: bool = False) -> dict[str, Any]:
    data = []
    for index, vector_D in enumerate(vectors_ND):
        packed = base64.b64encode(vector_D.astype("<f4").tobytes()).decode() if as_base64 else vector_D.tolist()
        data.append({"object": "embedding", "index": index, "embedding": packed})
    return {"object": "list", "data": data, "model": desk.index.space_id}
