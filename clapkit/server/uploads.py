"""Bodies with a sound in them, read into memory: what is uploaded never touches a disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from clapkit.errors import nearest_name
from clapkit.server.limits import Limits
from clapkit.server.refusals import Refusal

_MOST_FIELDS = 1100


class _InMemory(MultiPartParser):
    """The parser of Starlette, with no file on disk for longer parts: the length of the body is bounded already."""

    spool_max_size = 0  # for SpooledTemporaryFile: never


@dataclass
class Form:
    """The fields of a multipart body: `sound` is the file of that name, `words` all others, each with its values."""

    sound: bytes | None = None
    words: dict[str, list[str]] = field(default_factory=dict)

    def one(self, name: str) -> str | None:
        """The value of a field that comes once at most; Refusal (422) if it comes twice."""
        values = self.words.get(name, [])
        if len(values) > 1:
            raise Refusal(422, f"the field '{name}' comes {len(values)} times: expected once")
        return values[0] if values else None

    def number(self, name: str, default: int) -> int:
        """A field as a whole number; Refusal (422) if it is none."""
        value = self.one(name)
        if value is None:
            return default
        try:
            return int(value[:1000])
        except ValueError:
            raise Refusal(422, f"{name} is '{value}': expected a whole number") from None


async def read_form(request: Request, limits: Limits, *, fields: Sequence[str], others: str | None = None) -> Form:
    """The multipart body of a request, which may hold one file `sound` and the named `fields`.

    others   the content type that whoever asks takes beside this one

    Refusal: 415 for another kind of body, 400 for one that cannot be read, 422 for unknown or misplaced fields.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        wanted = "multipart/form-data" if others is None else f"{others} or multipart/form-data"
        raise Refusal(415, f"the content type is '{kind}': expected {wanted}")
    limit = limits.body_bytes
    parser = _InMemory(request.headers, request.stream(), max_files=1, max_fields=_MOST_FIELDS, max_part_size=limit)
    try:
        items = (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise Refusal(400, f"the body is no multipart form that can be read: {error.message}") from None
    except (LookupError, ValueError) as error:  # a character set that is none, or is not kept to
        raise Refusal(400, f"the body is no multipart form that can be read: {error}") from None
    form = Form()
    for name, value in items:
        if isinstance(value, UploadFile):
            if name != "sound":
                raise Refusal(422, f"the file is called '{name}': expected 'sound'")
            form.sound = await value.read()
            await value.close()
        elif name not in fields:
            told = "the field 'sound' has to be a file" if name == "sound" else f"there is no field '{name}'"
            raise Refusal(422, f"{told}; {nearest_name(name, ['sound', *fields])}")
        else:
            form.words.setdefault(name, []).append(value)
    return form
