"""Requests that mean harm, as bytes for a socket: what `server_hostile.py` and the tests of the server send.

`attacks(seed, ids)` goes on for ever, each time another one; the same seed makes the same requests.
"""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote

import numpy as np
import soundfile

SECRET = b"only for those who may read it"
_BOUNDARY = "x-hostile-x"
_FORM = f"multipart/form-data; boundary={_BOUNDARY}"
_NAMES = [
    "../secret.txt", "..", ".", "/etc/passwd", "../../../../../../etc/passwd", "....//....//etc/passwd",
    "..\\..\\secret.txt", "C:\\windows\\win.ini", "\\\\host\\share\\x", "file:///etc/passwd", "http://127.0.0.1:1/",
    "~root/.bashrc", "%2e%2e%2fsecret.txt", "%252e%252e%252fsecret.txt", "..%c0%af..%c0%afetc/passwd", "%00",
    "a%00.wav",
    "sounds/secret.txt", "link.wav", "outside/secret.txt", "..;/..;/etc/passwd", "%ff%fe", "{}", "*", "' OR 1=1 --",
    "\"; DROP TABLE rows; --", "$(id)", "a" * 5000, "0" * 20, "-" * 128, "\u202e\u0000\ud800",
]  # fmt: skip
_TEXTS = [
    "", " ", "\t", "\x00", "rain\x1b[31m", "\u200b\u200f", "дождь", "雨の音", "مطر", "🎧🌧", "e\u0301" * 300, "A" * 2001,
    "rain " * 10_000, "\ud800", "\udfff\ud800", "\ufeffrain", "\U0010ffff", "<script>alert(1)</script>", "%s%n%x",
    "{{7*7}}", "'; --", "rain\r\nX-Injected: 1", "𝕣𝕒𝕚𝕟", "ｒａｉｎ", "null", "NaN", "-1", "\\u0000",
]  # fmt: skip
_FILTERS = [
    "", "=", "tags", "tags=", "tags=' OR 1=1 --", "folder under ' OR ''='", "file contains %", "file contains ../",
    "id in " + ",".join("a" * 20 for _ in range(80)), "duration_s>=nan", "duration_s>=1e999", "duration_s>=-1e308",
    "duration_s>=0x10", "start_s<" + "9" * 300, "size_bytes>=9223372036854775808", "meta.=1", "meta.a.b.c.d=1",
    "meta.__class__=x", "vector=1", "words=rain", "window=0", "1=1", "(((((((tags=a)))))))", "(" * 900 + ")" * 900,
    "tags=a OR tags=b", "NOT tags=a", "tags in ," * 300, "tags = \x00", "tags=\ud800", "folder under /", "folder=..",
    "folder under ../..", "file=/etc/passwd", " " * 1900 + "tags=a", "tags" + " " * 1900 + "=a", "label=\\'\\\\\"`",
]  # fmt: skip
_NUMBERS = [
    "0", "-1", "1", "500", "501", "1000000000", "9" * 400, "9" * 5000, "1.5", "1e3", "nan", "inf", "-inf", "0x10",
    "", " 7",
    "ten", "\u0663", "1_0", "true", "null", "[]",
]  # fmt: skip
_METHODS = ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "CONNECT", "PROPFIND", "get", "A" * 300, "G\x00T", ""]
_RANGES = [
    "bytes=0-", "bytes=-1", "bytes=-0", "bytes=5-1", "bytes=0-99999999999999999999", "bytes=99999999999-", "bytes=abc",
    "bytes", "bytes=", "rows=0-1", "bytes=" + "0-0," * 3000, "bytes=" + ",".join(f"{n}-" for n in range(200)),
    "bytes=--1", "bytes=0-0,-1", "bytes=\x01", "bytes=1e3-2e3",
]  # fmt: skip
_PATHS = [
    "/search",
    "/filters",
    "/map",
    "/classify",
    "/embed",
    "/v1/embeddings",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/",
]


@dataclass(frozen=True)
class Attack:
    """What is sent, and how: "whole"; "half" (then no more is said), "abort" (the line is cut at once), "endless" (the
    last bytes are sent again and again until there is an answer), "slow" (and then nothing, the line stays open)."""

    kind: str
    data: bytes
    how: str = "whole"


def attacks(seed: int, ids: Sequence[str], *, kinds: Sequence[str] = ()) -> Iterator[Attack]:
    """Attacks without end; `ids` are rows that exist, `kinds` the only ones that are wanted (default: all)."""
    rng = random.Random(seed)
    wanted = [(kind, make) for kind, make in _KINDS.items() if not kinds or kind in kinds]
    while True:
        for kind, make in wanted:
            data, *how = make(rng, ids)
            yield Attack(kind, data, *how)


def get(path: str, *, headers: str = "", method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request without a body on a line of its own."""
    head = f"{method} {path} {version}\r\nHost: x\r\n{headers}Connection: close\r\n\r\n"
    return head.encode("utf-8", "surrogatepass")


def post(path: str, body: bytes, kind: str = _FORM, *, headers: str = "") -> bytes:
    """A request with a body."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}"
    return head.encode("utf-8", "surrogatepass") + b"Connection: close\r\n\r\n" + body


def form(fields: Sequence[tuple[str, bytes]], sound: bytes | None = None) -> bytes:
    """A multipart body."""
    parts = [f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() for name, _ in fields]
    body = b"".join(part + value + b"\r\n" for part, (_, value) in zip(parts, fields, strict=True))
    if sound is not None:
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="sound"; filename="a.wav"\r\n\r\n'
        body += head.encode() + sound + b"\r\n"
    return body + f"--{_BOUNDARY}--\r\n".encode()


def escaped(text: str) -> str:
    """For the query of a URL; lone surrogates go as the bytes that they would be."""
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def _traversal(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    name = rng.choice(_NAMES)
    spelled = rng.choice(
        [name, escaped(name), escaped(escaped(name)), name.replace("/", "%2f"), name.replace("/", "\\")]
    )
    pattern = rng.choice(["/audio/{}", "/spectrogram/{}.png", "/similar/{}", "/sounds/{}", "/moments/{}?text=a", "/{}"])
    return (get(pattern.format(spelled.replace(" ", "%20").replace("\x00", "%00"))),)


def _text(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    words = rng.choice([rng.choice(_TEXTS), "".join(chr(rng.randrange(1, 0x2FFF)) for _ in range(rng.randrange(80)))])
    name = rng.choice(["text", "without", "words"])
    more = "" if name == "text" else "&text=rain"
    if rng.random() < 0.7:
        return (get(f"/search?{name}={escaped(words)}{more}"),)
    fields = [(name, words.encode("utf-8", "surrogatepass")), *([("text", b"rain")] if more else [])]
    return (post("/search", form(fields)),)


def _broken_query(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    queries = ["text=%", "text=%zz", "text=%ed%a0%80", "text=%ff%fe", "text", "=rain", "&&&", "text=a;b", "text[]=a"]
    queries += ["text=a&k", "text=a#b", "?text=a", "text=" + "%41" * 30_000, "a=" * 5000, "text=a&text[0]=b", "k=1"]
    return (get(f"/search?{rng.choice(queries)}"),)


def _numbers(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    number, id = escaped(rng.choice(_NUMBERS)), rng.choice(ids)
    name = rng.choice(["k", "variety", "copies_above", "exact", "moments", "joined"])
    paths = [f"/search?text=rain&{name}={number}", f"/map?limit={number}", f"/similar/{id}?k={number}"]
    paths += [f"/spectrogram/{id}.png?{side}={number}" for side in ("width", "height", "start_s", "duration_s")]
    return (get(rng.choice(paths)),)


def _filter(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    several = "".join(f"&where={escaped(rng.choice(_FILTERS))}" for _ in range(rng.choice([1, 1, 1, 2, 17])))
    return (get(f"/search?text=rain{several}"),)


def _many(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    count = rng.choice([33, 100, 1000, 5000])
    choices = ["&text=a" * count, "&without=a" * count, f"&like={rng.choice(ids)}" * count, "&where=tags%3Da" * count]
    if rng.random() < 0.6:
        return (get("/search?text=rain" + rng.choice(choices)[:200_000]),)
    return (post("/search", form([(rng.choice(["text", "like", "where", "nothing"]), b"rain")] * count)),)


def _broken_form(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    body = bytearray(form([("text", b"rain"), ("k", b"3")], sound=b"RIFF" + bytes(40)))
    for _ in range(rng.randrange(1, 12)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    cut = bytes(body[: rng.randrange(len(body))]) if rng.random() < 0.5 else bytes(body)
    kinds = [
        _FORM,
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"{_FORM}; charset=utf-7",
        "text/plain",
        "",
    ]
    return (post(rng.choice(["/search", "/classify", "/embed"]), cut, rng.choice([_FORM, _FORM, *kinds])),)


def _sound(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    sound = rng.choice(_sounds())
    if rng.random() < 0.4 and len(sound) < 100_000:
        spoiled = bytearray(sound or b"RIFF")
        for _ in range(rng.randrange(1, 30)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        sound = bytes(spoiled[: rng.randrange(1, len(spoiled) + 1)])
    path = rng.choice(["/search", "/embed", "/classify"])
    fields = {"/search": [], "/embed": [], "/classify": [("labels", b"rain")]}[path]
    if path == "/search" and rng.random() < 0.3:
        fields = [("start_s", rng.choice(_NUMBERS).encode()), ("end_s", rng.choice(_NUMBERS).encode())]
    return (post(path, form(fields, sound)),)


def _json(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    bodies = [
        b"", b"{", b"[" * 50_000, b'{"input":' * 20_000, b'{"input": "\\ud800"}', b'{"input": "\xff"}', b"nan",
        b'"rain"',
        json.dumps({"input": ["a"] * 257}).encode(), json.dumps({"input": "x" * 100_000}).encode(),
        json.dumps({"input": [[1]]}).encode(), json.dumps({"input": "a", "dimensions": 10**30}).encode(),
        b'{"input": "a", "input": 7}', json.dumps({"input": {"a": "b"}}).encode(), b'{"input": 1e999}',
        b"\xef\xbb\xbf{}",
    ]  # fmt: skip
    kinds = ["application/json", "application/json; charset=utf-16", "text/json", "application/xml"]
    return (post(rng.choice(["/embed", "/v1/embeddings", "/search"]), rng.choice(bodies), rng.choice(kinds)),)


def _method(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    path = rng.choice([*_PATHS, f"/audio/{rng.choice(ids)}", f"/sounds/{rng.choice(ids)}"])
    return (get(path, method=rng.choice(_METHODS)),)


def _range(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    more = rng.choice(["", "If-Range: x\r\n", "If-None-Match: *\r\n", "If-Modified-Since: never\r\n"])
    return (get(f"/audio/{rng.choice(ids)}", headers=f"Range: {rng.choice(_RANGES)}\r\n{more}"),)


def _heads(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    noise = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))
    heads = [
        noise, noise + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET http://other.host/healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.1\r\n\r\n", b"\r\n" * 2000,
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", get("/" + "a" * 300_000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        get("/healthz", headers="".join(f"X-{n}: y\r\n" for n in range(2000))), get("/healthz", headers="X: \x00\r\n"),
        get("/healthz", headers="X: " + "y" * 300_000 + "\r\n"),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n X: folded\r\n\r\n",
        get("/healthz", headers="Cookie: " + "a=b; " * 5000 + "\r\n"), get("/healthz",
        headers="Upgrade: websocket\r\n"),
        get("/healthz", headers="Accept-Encoding: " + "gzip," * 5000 + "\r\n"), get("*", method="OPTIONS"),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 50, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
    ]  # fmt: skip
    return rng.choice(heads), "half"


def _lengths(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    path = rng.choice(["/search", "/embed", "/classify"])
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {_FORM}\r\n".encode()
    lengths = [b"2147483648", b"-1", b"9" * 400, b"1e9", b"0x10", b"", b"5, 6", b"+5", b"18446744073709551616"]
    if rng.random() < 0.5:
        expect = rng.choice([b"", b"Expect: 100-continue\r\n", b"Expect: nothing\r\n"])
        return start + b"Content-Length: " + rng.choice(lengths) + b"\r\n" + expect + b"\r\n", "half"
    chunked = start + b"Transfer-Encoding: chunked\r\n"
    bodies = [
        b"\r\nzz\r\n", b"\r\n-5\r\nab\r\n", b"\r\nffffffffffffffff\r\n", b"\r\n5\r\nabc",
        b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        b"\r\n" + b"1\r\na\r\n" * 2000 + b"0\r\n\r\n", b"\r\n5;" + b"x" * 100_000 + b"\r\nabcde\r\n0\r\n\r\n",
        b"\r\n0\r\n\r\n",
    ]  # fmt: skip
    return chunked + rng.choice(bodies), "half"


def _endless(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    start = f"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: {_FORM}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    piece = form([], b"")[: -len(_BOUNDARY) - 8] + bytes(65536)  # a file begins, and does not end
    return start + b"%x\r\n" % len(piece) + piece + b"\r\n", "endless"


def _gone(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    whole = rng.choice(
        [get("/search?text=rain"), post("/search", form([], _sounds()[0])), get(f"/audio/{rng.choice(ids)}")]
    )
    return whole[: rng.randrange(1, len(whole) + 1)], "abort"


def _slow(rng: random.Random, ids: Sequence[str]) -> tuple[bytes, ...]:
    return get("/search?text=rain")[: rng.randrange(30)], "slow"


@cache
def _sounds() -> tuple[bytes, ...]:
    """Sounds, and what is none: good, silent, endless when unpacked, of odd shapes, cut, and of other kinds."""
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(np.arange(8000) / 3)
    good = _written(tone, 8000, "WAV")
    lying = bytearray(good)
    lying[40:44] = struct.pack("<I", 0xFFFFFFF0)  # the length of its data
    return (
        good,
        _written(np.zeros(8000 * 3600 * 2, np.int16), 8000, "FLAC"),  # two hours of silence
        _written(rng.standard_normal((400, 32)), 8000, "WAV"),
        _written(tone, 192_000, "WAV"),
        _written(np.full(800, np.nan), 8000, "WAV", "FLOAT"),
        _written(np.full(800, 1e38), 8000, "WAV", "DOUBLE"),
        _written(tone, 8000, "OGG"),
        _written(tone[:1], 1, "WAV"),
        bytes(lying),
        good[:30],
        b"",
        b"a text, and no sound at all" * 50,
        b"\x00\x00\x00\x18ftypmp42" + bytes(5000),
        b"fLaC" + bytes(5000),
        b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(5000),
        b"\x1a\x45\xdf\xa3" + bytes(5000),
        b"PK\x03\x04" + bytes(5000),
        bytes(200_000),
        rng.bytes(100_000),
        _video(),
    )


def _written(samples: np.ndarray, rate_hz: int, kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def _video() -> bytes:
    """A second of moving picture without sound."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for n in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


_KINDS: dict[str, Callable[[random.Random, Sequence[str]], tuple[bytes, ...]]] = {
    "traversal": _traversal,
    "text": _text,
    "broken query": _broken_query,
    "numbers": _numbers,
    "filter": _filter,
    "many": _many,
    "broken form": _broken_form,
    "sound": _sound,
    "json": _json,
    "method": _method,
    "range": _range,
    "heads": _heads,
    "lengths": _lengths,
    "endless": _endless,
    "gone": _gone,
    "slow": _slow,
}
FAST = tuple(kind for kind in _KINDS if kind not in ("endless", "slow"))  # each of the others takes seconds
