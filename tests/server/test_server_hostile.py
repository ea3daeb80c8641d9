"""Requests that mean harm: paths out of the index, links, broken bodies, and whatever the description allows."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import socket
import string
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from clapkit.server.refusals import Refusal
from clapkit.server.rows import ExactRows, Row
from clapkit.server.shelf import Shelf

SECRET = b"do not read"


def raw(url, request, *, ends=False, limit=1 << 16):
    """What comes back for bytes on a socket, to the end of the connection; `ends`: nothing more is said then."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as line:
        line.sendall(request)
        if ends:
            line.shutdown(socket.SHUT_WR)
        answer = b""
        while len(answer) < limit and (piece := line.recv(65536)):
            answer += piece
    return answer


def row(path, id="a"):
    return Row(id, None if path is None else str(path), 0.0, None, {})


@pytest.fixture
def house(served, tmp_path):
    """A copy of the sounds that may be spoiled: `inside/` holds them, `outside/` what nobody may read."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    sounds = [shutil.copy(file, inside / f"{n}.wav") for n, file in enumerate(served.files[:3])]
    shutil.copy(served.files[3], outside / "private.wav")
    (outside / "secret.txt").write_bytes(SECRET)
    return SimpleNamespace(inside=inside, outside=outside, sounds=sounds, shelf=Shelf(map(str, sounds)))


def test_paths_in_place_of_ids_read_nothing(url, served):
    secret, plain = served.folder / "sounds" / "secret.txt", served.folder / "not-indexed.wav"
    names = [
        str(secret), str(plain), "../secret.txt", "..", ".", "../../../../../../etc/passwd", "/etc/passwd",
        "....//....//etc/passwd", "..\\..\\windows\\win.ini", "C:\\windows\\win.ini", "\\\\host\\share\\x",
        "%2e%2e%2fsecret.txt", "%252e%252e%252fsecret.txt", "..%2f..%2fetc%2fpasswd", "..%c0%af..%c0%afetc/passwd",
        "%00", "a%00.wav", "file:///etc/passwd", "http://127.0.0.1/", "~root/.bashrc", "a" * 5000, "%ff%fe", "sounds",
        "low/tone 0.wav", str(served.files[0]), "../index/rows.jsonl", "..;/..;/etc/passwd", "{}", "*", "' OR 1=1 --",
    ]  # fmt: skip
    for name in names:
        for pattern in ("/audio/{}", "/spectrogram/{}.png", "/similar/{}", "/sounds/{}"):
            for spelled in (name, name.replace("/", "%2f")):
                target = pattern.format(spelled.replace(" ", "%20")).encode("utf-8")
                answer = raw(url, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                status = int(answer.split(b" ", 2)[1])
                assert 400 <= status < 500, (name, answer[:300])
                assert SECRET not in answer and b"RIFF" not in answer and b"root:" not in answer


def test_links_that_lead_out_are_not_followed(house):
    first, second, third = house.sounds
    assert house.shelf.find(row(first)) == (os.path.realpath(first), "audio/wav")
    for path, target in ((first, house.outside / "private.wav"), (second, house.outside / "secret.txt")):
        os.remove(path)
        try:
            os.symlink(target, path)
        except OSError:
            pytest.skip("this system makes no links")
        with pytest.raises(Refusal, match="leads out") as refused:
            house.shelf.find(row(path))
        assert refused.value.status == 403 and str(target) not in refused.value.message
    os.remove(third)
    os.symlink(os.path.basename(second), third)  # a link to a link
    with pytest.raises(Refusal, match="leads out"):
        house.shelf.find(row(third))


def test_a_folder_that_became_a_link_is_not_followed(house):
    house.inside.rename(house.inside.with_name("moved"))
    try:
        os.symlink(house.outside, house.inside)
    except OSError:
        pytest.skip("this system makes no links")
    shutil.copy(house.outside / "private.wav", house.outside / "0.wav")
    with pytest.raises(Refusal, match="leads out"):
        house.shelf.find(row(house.sounds[0]))


def test_roots_replace_the_folders_of_the_files(house, tmp_path):
    link = house.inside / "linked.wav"
    try:
        os.symlink(house.outside / "private.wav", link)
    except OSError:
        pytest.skip("this system makes no links")
    files = [*map(str, house.sounds), str(link)]
    with pytest.raises(Refusal, match="leads out"):
        Shelf(files).find(row(link))
    assert Shelf(files, roots=[tmp_path]).find(row(link))[0] == os.path.realpath(house.outside / "private.wav")
    only_outside = Shelf(files, roots=[house.outside])
    assert only_outside.find(row(link))[1] == "audio/wav"
    with pytest.raises(Refusal, match="leads out"):
        only_outside.find(row(house.sounds[0]))
    beside = tmp_path / "outside-too"  # begins like a root, and is none
    shutil.copytree(house.outside, beside)
    with pytest.raises(Refusal, match="leads out"):
        only_outside.find(row(beside / "private.wav"))


def test_files_that_are_gone_or_no_sound_any_more(house):
    first, second, third = house.sounds
    os.remove(first)
    with open(second, "wb") as file:
        file.write(SECRET)
    os.remove(third)
    os.mkdir(third)
    for path, status, told in ((first, 410, "deleted"), (second, 403, "no sound"), (third, 403, "no regular file")):
        with pytest.raises(Refusal, match=told) as refused:
            house.shelf.find(row(path))
        assert refused.value.status == status
    with pytest.raises(Refusal, match="no file of its own") as refused:
        house.shelf.find(row(None))
    assert refused.value.status == 404
    assert house.shelf.name(row(None, "named")) == "named"


def test_a_file_deleted_while_served(serve, served, tmp_path):
    from clapkit.search.exact import ExactIndex

    gone = shutil.copy(served.files[0], tmp_path / "gone \udcff.wav" if os.name == "posix" else tmp_path / "gone.wav")
    about = {"space_id": served.clap.space_id, "pipeline_id": served.clap.pipeline_id}
    index = ExactIndex.create(tmp_path / "index", **about, dimension=served.clap.dimension)
    index.add([str(gone)], served.clap.embed_audio([gone]), [{"path": str(gone), "note": "\udcff"}])
    index.save()
    with serve(index=ExactRows(index)) as url:
        hit = httpx.get(url + "/search", params={"text": "rain"}).json()["results"][0]
        assert hit["name"].startswith("gone ") or hit["name"] == "gone.wav"
        assert httpx.get(url + hit["audio"]).status_code == 200
        os.remove(gone)
        for path in (hit["audio"], hit["spectrogram"]):
            answer = httpx.get(url + path)
            assert answer.status_code == 410 and "deleted" in answer.json()["error"]["message"]
        assert len(httpx.get(url + "/search", params={"text": "rain"}).json()["results"]) == 1


def bodies():
    """Multipart bodies that are broken in a way each, and their content types."""
    good = b'--x\r\nContent-Disposition: form-data; name="sound"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
    kind = "multipart/form-data; boundary=x"
    yield from ((good[:cut], kind) for cut in range(0, len(good), 7))
    yield good, "multipart/form-data"
    yield good, "multipart/form-data; boundary="
    yield good, "multipart/form-data; boundary=" + "y" * 10_000
    yield good, 'multipart/form-data; boundary="x'
    yield good, kind + "; charset=utf-7"
    yield good, kind + "; charset=hex"
    yield good, kind + "; charset=idna"
    yield good, kind + "; charset=\u00ff"
    yield good.replace(b"form-data", b"attachment"), kind
    yield good.replace(b'name="sound"; ', b""), kind
    yield good.replace(b"Content-Disposition", b"Content-Disposition" * 2000), kind
    yield good.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"), kind
    yield b"\r" * 100_000, kind
    yield b"--x\r\n" * 20_000, kind
    yield good.replace(b'"a.wav"', b'"..\\..\\\x00\xff.wav"'), kind
    yield b'--x\r\nContent-Disposition: form-data; name="k"\r\n\r\n\xff\xfe\r\n--x--\r\n', kind


def test_broken_forms_get_a_4xx_and_the_next_one_is_read(http):
    for body, kind in bodies():
        for path in ("/search", "/classify", "/embed"):
            answer = http.post(path, content=body, headers={"Content-Type": kind.encode("latin-1")})
            assert 400 <= answer.status_code < 500, (body[:100], kind, answer.text)
            assert answer.json()["error"]["message"]
    assert http.get("/healthz").status_code == 200


def assailants():
    """The requests of `benchmarks/server_hostile.py`, and how they are sent."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    if not (folder / "server_hostile.py").is_file():
        pytest.skip("the benchmarks are not there")
    pytest.importorskip("psutil")
    sys.path.insert(0, str(folder))
    try:
        import server_hostile
    finally:
        sys.path.remove(str(folder))
    return server_hostile


@pytest.fixture
def threatened(serve, library, served, tmp_path):
    """A server of a store, one sound of which has become a link to a secret."""
    from clapkit.search.store import Store
    from clapkit.server.rows import StoreRows

    hostile = assailants()
    file = served.files[0]
    kept = file.read_bytes()
    (tmp_path / "secret.txt").write_bytes(hostile.SECRET)
    try:
        with serve(index=StoreRows(Store.open(library.place)), head_s=1.0, body_s=5.0) as url:
            file.unlink()
            with contextlib.suppress(OSError):  # a system without links
                file.symlink_to(tmp_path / "secret.txt")
            yield url, [row.id for row in library.rows], hostile
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(kept)


@pytest.mark.timeout(240)
def test_a_thousand_requests_that_mean_harm(threatened):
    """A sample of what `benchmarks/server_hostile.py` sends: no failure, no hang, nothing read that may not be."""
    url, ids, hostile = threatened
    outcome = hostile.assail(url, itertools.islice(hostile.attacks(7, ids, kinds=hostile.FAST), 750), lines=8)
    assert outcome.wrong == []
    assert sum(sum(found.values()) for found in outcome.statuses.values()) == 750
    assert outcome.statuses["traversal"].keys() <= {"404", "403", "410", "422", "400", "307", "200"}
    held = hostile.attacks(8, ids, kinds=("slow", "endless"))
    slow = hostile.assail(url, itertools.islice(held, 16), lines=16)
    assert slow.wrong == [] and slow.statuses["slow"].keys() <= {"closed", "408", "400"}
    assert slow.statuses["endless"].keys() <= {"413", "closed", "400", "429"}
    assert httpx.get(url + "/search", params={"text": "rain"}).status_code == 200


def test_bytes_that_are_no_http(url):
    rng = random.Random(4)
    noise = [bytes(rng.randrange(256) for _ in range(rng.randrange(1, 300))) for _ in range(40)]
    heads = [
        b"GET /nothing HTTP/9.9\r\n\r\n",
        b"GET /search?text=%zz%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 500 + b"\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        b"GET /audio/x HTTP/1.1\r\nHost: x\r\nRange: bytes=" + b"0-1," * 5000 + b"\r\n\r\n",
        b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n\r\n",
    ]
    for request in [*noise, *heads]:
        answer = raw(url, request, ends=True)
        assert not answer or answer.split(b" ", 2)[1].startswith(b"4"), (request[:80], answer[:200])
    assert httpx.get(url + "/search", params={"text": "rain"}).status_code == 200


def test_random_texts_never_fail_the_server(http):
    rng = random.Random(5)
    alphabet = string.printable + "äß雨🎧\u200f\ufeff\ufffe\U0010ffff\x00\x7f"
    statuses = set()
    for _ in range(60):
        text = "".join(rng.choices(alphabet, k=rng.randrange(0, 200)))
        answer = http.get("/search", params={"text": text, "k": rng.choice([1, 3, 500, -1])})
        statuses.add(answer.status_code)
    assert statuses == {200, 422}


@pytest.mark.parametrize("kind", ["store", "index of the old kind"])
def test_what_the_description_allows_never_fails_the_server(request, kind):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Unsatisfiable

    url = request.getfixturevalue("store_url" if kind == "store" else "url")
    allowed = () if kind == "store" else (501,)  # what it cannot do, it says
    described = schemathesis.openapi.from_url(url + "/openapi.json")
    operations = [result.ok() for result in described.get_all_operations()]
    assert len(operations) >= 11
    asked = []
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)

            @settings(max_examples=12, deadline=None, database=None, suppress_health_check=quiet, derandomize=True)
            @given(case=cases)
            def ask(case):
                answer = case.call()
                asked.append(answer.status_code)
                assert answer.status_code < 500 or answer.status_code in allowed, (case, answer.text)
                if answer.status_code >= 400 and answer.status_code not in (400, 416):
                    assert answer.json()["error"]["message"]

            with contextlib.suppress(Unsatisfiable):  # what takes nothing cannot be given something wrong
                ask()
    assert len(asked) > 100 and {200, 422} <= set(asked)
