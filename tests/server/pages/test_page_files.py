"""The files of the page: what is shipped, how it is served, and what may not stand in it."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

import clapkit.server

PAGES = Path(clapkit.server.__file__).parent / "pages"
REPOSITORY = Path(__file__).resolve().parents[3]
OWN = [
    path for path in sorted(PAGES.rglob("*")) if path.suffix in (".js", ".css", ".html") and "vendor" not in path.parts
]


def test_vendored_files_are_as_they_were_published():
    written = dict(re.findall(r"\| (\S+) \| ([0-9a-f]{64}) \|", (PAGES / "vendor" / "README.md").read_text("utf-8")))
    there = {path.name: path for path in (PAGES / "vendor").iterdir() if path.name != "README.md"}
    assert written.keys() == there.keys() and {"wavesurfer.esm.js", "LICENSE"} <= there.keys()
    for name, path in there.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == written[name], name


def test_everything_is_shipped():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["clapkit.server"]
    shipped = {path for pattern in patterns for path in PAGES.parent.glob(pattern) if path.is_file()}
    assert shipped == {path for path in PAGES.rglob("*") if path.is_file()}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_markup_is_made_of_data_and_no_host_is_named(path):
    text = path.read_text("utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
    )
    assert not re.search(r"\son\w+=|<style|style=", text), "the policy of the page forbids what stands in attributes"
    hosts = [found for found in re.findall(r"https?://[^\s\"')]+", text) if found != "http://www.w3.org/2000/svg"]
    assert not hosts
    assert text.count("\n") <= 400


def test_every_file_that_is_named_is_there():
    for path in OWN:
        text = path.read_text("utf-8")
        if path.suffix == ".html":
            named = [PAGES / name for name in re.findall(r'(?:src|href)="page/([^"]+)"', text)]
        else:
            named = [path.parent / name for name in re.findall(r'from "([^"]+)"', text)]
        assert all(name.is_file() for name in named), (path, named)


def test_the_page_may_load_only_from_its_own_server(http):
    answers = [http.get("/"), http.get("/")]
    policies = [answer.headers["content-security-policy"] for answer in answers]
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == "'self'" and rules["connect-src"] == "'self'"
    assert rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert not re.search(r"unsafe|https?:|\*|data:", policies[0])
    nonces = [re.search(r"'nonce-([\w-]{16,})'", policy)[1] for policy in policies]
    assert nonces[0] != nonces[1], "a nonce is good for one answer"
    assert all(nonce in answer.text for nonce, answer in zip(nonces, answers, strict=True))
    assert "{nonce}" not in answers[0].text
    assert answers[0].headers["content-type"] == "text/html; charset=utf-8"
    assert answers[0].headers["x-content-type-options"] == "nosniff"


def test_files_come_whole_or_not_at_all(http):
    for path in [*OWN, PAGES / "vendor" / "wavesurfer.esm.js", PAGES / "icon.svg"]:
        if path.suffix == ".html":
            continue
        answer = http.get(f"/page/{path.relative_to(PAGES).as_posix()}")
        assert (answer.status_code, answer.content) == (200, path.read_bytes())
        again = http.get(answer.url.path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert http.get("/page/js/main.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "name",
    ["../app.py", "..%2fapp.py", "js/../../app.py", "/etc/passwd", "js", "", "vendor/README.md", "index.html", "%00"],
)
def test_nothing_else_is_read(http, name):
    answer = http.get(f"/page/{name}")
    assert answer.status_code == 404
    assert "error" in answer.json()


def test_the_page_needs_no_key_and_everything_else_does(serve):
    httpx = pytest.importorskip("httpx2")
    with serve(api_key="secret") as url, httpx.Client(base_url=url) as client:
        for path in ("/", "/page/js/main.js", "/page/css/base.css", "/healthz"):
            assert client.get(path).status_code == 200, path
        for path in ("/search?text=a", "/filters", "/page", "/pages/", "/docs"):
            assert client.get(path).status_code == 401, path
