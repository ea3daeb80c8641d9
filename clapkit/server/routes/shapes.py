"""What the answers look like, for the OpenAPI description, and how rows become them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from pydantic import BaseModel, Field

from clapkit.server.desk import Desk
from clapkit.server.rows import Row
from clapkit.server.wanted import ID


class Found(BaseModel):
    """One row, or of a search for moments a stretch of a file. `name` is the path below the folder that all share."""

    id: str = Field(description="of the row; of a moment, that of its best row")
    score: float | None = Field(description="cosine with the query, less what is not wanted; null where there was none")
    name: str
    start_s: float
    end_s: float | None
    duration_s: float | None
    tags: list[str]
    window: int | None = Field(description="number of the row in its file")
    metadata: dict[str, Any]
    audio: str = Field(description="where the sound is")
    spectrogram: str = Field(description="where its picture is")


class Results(BaseModel):
    """Rows, best first; `rows` is the size of the index, `space_id` the space of query and rows."""

    results: list[Found]
    rows: int
    space_id: str


class FieldAbout(BaseModel):
    """Something that `where` can ask for: number, text or list, and the operators that it takes."""

    name: str
    kind: str
    operators: list[str]


class TagCount(BaseModel):
    """A tag, and how many files have it."""

    tag: str
    count: int


class FolderCount(BaseModel):
    """A folder, and how many files lie in it and below it."""

    folder: str
    count: int


class Filters(BaseModel):
    """What can be filtered by, and how much there is of it; the most frequent tags, and the folders, by name."""

    fields: list[FieldAbout]
    tags: list[TagCount]
    folders: list[FolderCount]
    duration_s: list[float] | None = Field(description="the shortest and the longest row")
    rows: int
    files: int


class Point(BaseModel):
    """A file on the map; `id` is that of its first row. x and y lie in 0 to 1."""

    id: str
    x: float
    y: float
    name: str
    tags: list[str]


class Map(BaseModel):
    """Files whose sounds are alike lie together. `files` is how many there are, of which `points` may be a sample."""

    points: list[Point]
    method: str
    files: int
    final: bool = Field(description="false: these are places to begin with, and better ones are being worked out")


class Stretch(BaseModel):
    """A stretch of a file, and the cosine of its best row with the query."""

    start_s: float
    end_s: float
    score: float


class Moments(BaseModel):
    """All rows of a file in the order of time, and the best of them joined where they touch, best first."""

    windows: list[Stretch]
    moments: list[Stretch]


class Label(BaseModel):
    """A label with its probability among all labels of the request."""

    label: str
    probability: float


class Labels(BaseModel):
    """Labels, best first. The probabilities sum to 1 over those that were given: they do not say whether any fits."""

    labels: list[Label]


class Embedding(BaseModel):
    """One vector: a list of numbers, or base64 of little-endian float32."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    """Unit-norm vectors in the order of the input; `model` is the space that they lie in."""

    object: str = "list"
    data: list[Embedding]
    model: str


class State(BaseModel):
    """What is served."""

    status: str
    rows: int
    dimension: int
    space_id: str
    family: str
    version: str


async def desk_of(request: Request) -> AsyncIterator[Desk]:
    """The desk that takes requests now; the request stays with it to its end."""
    desk: Desk = request.app.state.house.desk
    with desk.reading:
        yield desk


AtDesk = Annotated[Desk, Depends(desk_of)]
RowId = Annotated[str, Path(description="id of a row, as a search gives it", pattern=ID)]


def shown(desk: Desk, row: Row, score: float | None) -> dict[str, Any]:
    """A row as `Found`."""
    return {
        "id": row.id,
        "score": score,
        "name": desk.shelf.name(row),
        "start_s": row.start_s,
        "end_s": None if row.duration_s is None else row.start_s + row.duration_s,
        "duration_s": row.duration_s,
        "tags": list(row.tags),
        "window": row.window,
        "metadata": dict(row.metadata),
        "audio": f"/audio/{row.id}",
        "spectrogram": f"/spectrogram/{row.id}.png",
    }


def results(desk: Desk, found: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    """Rows and scores as `Results`."""
    rows = [shown(desk, row, score) for row, score in found]
    return {"results": rows, "rows": len(desk.index), "space_id": desk.index.space_id}


def form_body(*, sound_required: bool, **fields: dict[str, Any]) -> dict[str, Any]:
    """The description of a multipart body with a file `sound` and further fields, for `openapi_extra`."""
    properties = {"sound": {"type": "string", "format": "binary"}, **fields}
    required = ["sound"] if sound_required else []
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
