"""Models go to a hub and come back: a hub of our own on this machine, spoken to by huggingface_hub itself."""

from __future__ import annotations

import base64
import filecmp
import hashlib
import http.server
import json
import re
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import save_file

from clapkit.checkpoints.hub import HubName, fetch, hub_name, locate, push_to_hub
from clapkit.checkpoints.reading import read
from clapkit.errors import CheckpointError, MissingExtraError

TOKEN = "hf_a_token_of_the_test"
LARGE = (".safetensors", ".bin", ".pt")


class FakeHub(http.server.ThreadingHTTPServer):
    """Repositories as dicts: name -> list of (commit, {file: bytes}), the newest last."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.objects: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.broken = False
        self.seen: list[str] = []
        self.agents: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(repr((repo, files, len(self.repos.get(repo, ())))).encode()).hexdigest()
        self.repos.setdefault(repo, []).append((commit, dict(files)))
        return commit

    def at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repos[repo]
        if revision in ("main", ""):
            return commits[-1] if commits else ("0" * 40, {})
        return next((c for c in commits if c[0] == revision), None)


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes | dict | list = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        self.server.seen.append(f"{self.command} {path}")
        self.server.agents.add(self.headers.get("User-Agent", ""))
        if self.server.broken:
            return self.reply(503, {"error": "down for the day"})
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return answer(self, body, **found.groupdict())
        return self.reply(404, {"error": f"this hub knows no {self.command} {path}"})

    do_HEAD = do_POST = do_PUT = do_GET

    def _chunks(self) -> bytes:
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def found(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit asked for; None after the answer that there is none."""
        if repo not in self.server.repos:
            self.reply(404, {"error": "no"}, X_Error_Code="RepoNotFound")
            return None
        if repo in self.server.gated:
            self.reply(403, {"error": "gated"}, X_Error_Code="GatedRepo")
            return None
        commit = self.server.at(repo, revision)
        if commit is None:
            self.reply(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        return commit

    def may_write(self) -> bool:
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not allowed:
            self.reply(401, {"error": "Invalid username or password."})
        return allowed

    def info(self, _: bytes, repo: str, revision: str = "main") -> None:
        if commit := self.found(repo, revision):
            siblings = [{"rfilename": name} for name in commit[1]]
            self.reply(200, {"id": repo, "modelId": repo, "sha": commit[0], "private": False, "siblings": siblings})

    def tree(self, _: bytes, repo: str, revision: str) -> None:
        if commit := self.found(repo, revision):
            files = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in commit[1].items()
            ]
            self.reply(200, files)

    def resolve(self, _: bytes, repo: str, revision: str, file: str) -> None:
        if commit := self.found(repo, revision):
            data = commit[1].get(file, b"")
            headers = {"X_Repo_Commit": commit[0], "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
            absent = {} if file in commit[1] else {"X_Error_Code": "EntryNotFound"}
            self.reply(404 if absent else 200, data, **headers, **absent)

    def create(self, body: bytes) -> None:
        if self.may_write():
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            new = repo not in self.server.repos
            self.server.repos.setdefault(repo, [])
            self.reply(200 if new else 409, {"url": f"{self.server.url}/{repo}", "id": repo})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        if self.may_write() and self.found(repo, revision):
            asked = json.loads(body)["files"]
            modes = [(f["path"], "lfs" if f["path"].endswith(LARGE) else "regular") for f in asked]
            self.reply(200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]})

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            upload = {"href": f"{self.server.url}/objects/{asked['oid']}"}
            objects.append({**asked, "actions": {"upload": upload}})
        self.reply(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        self.reply(200)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        if not self.may_write():
            return
        files = dict(self.server.at(repo, revision)[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        oid = self.server.add(repo, files)
        self.reply(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = [
    (rf"GET /api/models/{_REPO}", _Answer.info),
    (rf"GET /api/models/{_REPO}/revision/(?P<revision>[^/]+)", _Answer.info),
    (rf"GET /api/models/{_REPO}/tree/(?P<revision>[^/]+)/?", _Answer.tree),
    (rf"(?:GET|HEAD) /{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Answer.resolve),
    (r"POST /api/repos/create", _Answer.create),
    (r"POST /api/validate-yaml", lambda answer, _: answer.reply(200, {"errors": [], "warnings": []})),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>[^/]+)", _Answer.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Answer.batch),
    (r"PUT /objects/(?P<oid>[0-9a-f]+)", _Answer.put),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>[^/]+)", _Answer.commit),
]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback, and an empty cache of our own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = FakeHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    # These two are read once, when the library is imported; the second asks for the plain way of uploading.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder such as a model leaves, with what must not travel."""
    made = tmp_path / "made"
    (made / "text").mkdir(parents=True)
    (made / "logs").mkdir()
    save_file({"w": torch.arange(6.0)}, made / "model.safetensors")
    for name in ("config.json", "text/tokenizer.json", "README.md"):
        (made / name).write_text("{}")
    for name in ("modeling.py", "text/run.py", "logs/events.json", ".env", "notes.log"):
        (made / name).write_text("secret")
    return made


def test_there_and_back(hub, folder):
    url = push_to_hub(folder, "me/model", token=TOKEN, message="First")
    assert url.startswith(f"{hub.url}/me/model/commit/")
    assert set(hub.repos["me/model"][-1][1]) == {"model.safetensors", "config.json", "text/tokenizer.json", "README.md"}
    for name in ("me/model", "hf://me/model", "hf://me/model@main"):
        found = fetch(name)
        assert filecmp.cmp(found / "model.safetensors", folder / "model.safetensors", shallow=False)
        assert (found / "text" / "tokenizer.json").is_file()
    assert torch.equal(read(found).tensors["w"], torch.arange(6.0))


def test_a_revision_stays_what_it_was(hub, folder):
    push_to_hub(folder, "me/model", token=TOKEN)
    first = hub.repos["me/model"][-1][0]
    (folder / "config.json").write_text('{"new": 1}')
    push_to_hub(folder, "me/model", token=TOKEN)
    assert json.loads((fetch("me/model") / "config.json").read_text()) == {"new": 1}
    assert (fetch("me/model", revision=first) / "config.json").read_text() == "{}"
    assert (fetch(f"hf://me/model@{first}") / "config.json").read_text() == "{}"


def test_what_is_in_the_cache_is_not_downloaded_again_and_serves_offline(hub, folder, monkeypatch):
    push_to_hub(folder, "me/model", token=TOKEN)
    first = fetch("me/model")
    hub.seen.clear()
    assert fetch("me/model") == first
    assert not [line for line in hub.seen if "/resolve/" in line and line.startswith("GET")]
    hub.broken = True
    assert fetch("me/model") == first
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.seen.clear()
    assert fetch("me/model") == first
    assert hub.seen == []


def test_offline_without_the_model_says_what_helps(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        CheckpointError, match=r"'me/other'.*not in the Hugging Face cache.*HF_HUB_OFFLINE.*hf download"
    ):
        fetch("hf://me/other")
    with pytest.raises(CheckpointError, match=r"\(b\.pt, revision 'v1'\).*hf download me/other --revision v1"):
        fetch("hf://me/other@v1/b.pt")


def test_pickles_are_left_where_safetensors_are(hub):
    files = {"model.safetensors": b"s", "pytorch_model.bin": b"p", "config.json": b"{}", "tokenizer.json": b"{}"}
    hub.add("them/port", {**files, "modeling.py": b"evil", "onnx/model.onnx": b"o", "vocab.txt": b"v", "x.h5": b"h"})
    found = fetch("them/port")
    here = {p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()}
    assert here == {"model.safetensors", "config.json", "tokenizer.json", "vocab.txt"}
    hub.add("them/old", {"pytorch_model.bin": b"p", "config.json": b"{}"})
    assert (fetch("them/old") / "pytorch_model.bin").is_file()


def test_a_repository_of_many_checkpoints_wants_a_name(hub):
    hub.add(
        "them/many", {"630k-best.pt": b"1", "fusion.pt": b"2", "deep/er.pth": b"3", "evil.py": b"4", "c.json": b"{}"}
    )
    with pytest.raises(
        CheckpointError, match=r"holds 2 checkpoints: name one of them, as in hf://them/many/630k-best\.pt"
    ):
        fetch("them/many")
    assert fetch("hf://them/many/fusion.pt").read_bytes() == b"2"
    assert fetch("hf://them/many@main/deep/er.pth").read_bytes() == b"3"
    assert not [line for line in hub.seen if "630k-best" in line or "evil" in line]
    for name in ("absent.pt", "evil.py", "c.json"):
        with pytest.raises(CheckpointError, match=rf"has no checkpoint '{re.escape(name)}'; it holds 630k-best"):
            fetch(f"hf://them/many/{name}")


def test_what_can_be_wrong_at_the_hub(hub, folder):
    with pytest.raises(CheckpointError, match=r"no model 'no/where'.*HF_TOKEN"):
        fetch("no/where")
    hub.add("me/model", {"model.safetensors": b"s"})
    with pytest.raises(CheckpointError, match="'me/model' has no revision 'v7'"):
        fetch("me/model", revision="v7")
    hub.gated.add("me/model")
    with pytest.raises(CheckpointError, match="'me/model' is gated"):
        fetch("me/model")
    hub.add("me/words", {"README.md": b"x"})
    with pytest.raises(CheckpointError, match=r"'me/words' holds no weights.*but README\.md"):
        fetch("me/words")
    with pytest.raises(CheckpointError, match=r"refuses 'me/new'.*HTTP 401.*token"):
        push_to_hub(folder, "me/new", token="hf_wrong")
    with pytest.raises(CheckpointError, match="token"):
        push_to_hub(folder, "me/new")


def test_a_hub_that_cannot_be_reached(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"'me/model'.*was not downloaded: the hub cannot be reached"):
        fetch("me/model")
    with pytest.raises(CheckpointError, match=r"'me/model' cannot be put on the hub: the hub cannot be reached"):
        push_to_hub(folder, "me/model", token=TOKEN)


def test_only_a_model_is_put_on_the_hub(hub, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "absent"):
        with pytest.raises(CheckpointError, match=rf"{place}' is no model folder: it holds no weights"):
            push_to_hub(tmp_path / place, "me/model", token=TOKEN)
    with pytest.raises(CheckpointError, match="names no model"):
        push_to_hub(folder, "model", token=TOKEN)
    with pytest.raises(CheckpointError, match="'me/model/file' is no repository"):
        push_to_hub(folder, "me/model/file", token=TOKEN)
    assert hub.seen == []


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hf://owner/name", HubName("owner/name")),
        ("hf://owner/name/", HubName("owner/name")),
        ("hf://owner/name@v1.0", HubName("owner/name", "v1.0")),
        ("hf://owner/name@v1/a b/c.pt", HubName("owner/name", "v1", "a b/c.pt")),
        ("hf://lukewys/laion_clap/630k-best.pt", HubName("lukewys/laion_clap", "main", "630k-best.pt")),
        ("owner/name", HubName("owner/name")),
        ("owner/name@v1", HubName("owner/name", "v1")),
        ("owner/name/file.pt", None),
        ("owner/model.pt", None),
        ("./owner/name", None),
        ("/owner/name", None),
        ("~/name", None),
        ("name", None),
        ("here/absent", None),
        ("", None),
    ],
)
def test_names(tmp_path, monkeypatch, text, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()  # a name inside a folder that exists is a path with a slip in it
    assert hub_name(text) == meant
    assert text.startswith(("hf://", "./")) or hub_name(Path(text)) == meant


@pytest.mark.parametrize("text", ["hf://", "hf://name", "hf://a/b/../../c.pt", "hf://a/b@", "hf://a b/c", "hf:///a/b"])
def test_broken_names(text):
    with pytest.raises(CheckpointError, match="names no model: expected hf://owner/name"):
        hub_name(text)


def test_a_path_is_not_fetched(tmp_path):
    with pytest.raises(CheckpointError, match="is no name on the hub"):
        fetch(str(tmp_path))


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch, folder):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: fetch("me/model"), lambda: push_to_hub(folder, "me/model")):
        with pytest.raises(MissingExtraError, match=r'pip install "clapkit\[hub\]"'):
            call()


def test_whatever_a_user_calls_a_model(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.add("lukewys/laion_clap", {"630k-best.pt": b"1", "630k-fusion-best.pt": b"2"})
    hub.add("laion/clap-htsat-unfused", {"model.safetensors": b"3", "config.json": b"{}"})
    assert locate("laion-630k").read_bytes() == b"1"
    assert locate("hf://lukewys/laion_clap/630k-fusion-best.pt").read_bytes() == b"2"
    for name in ("hf-clap-unfused", "laion/clap-htsat-unfused"):
        assert (locate(name) / "model.safetensors").read_bytes() == b"3"
    hub.seen.clear()
    (tmp_path / "laion-630k").mkdir()  # what is here is meant first
    for name in ("laion-630k", "absent", "absent.pt", str(tmp_path), tmp_path / "absent" / "x"):
        assert locate(name) == Path(name)
    assert hub.seen == []
