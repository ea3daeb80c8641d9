"""Caches in one place, and files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from clapkit.files import atomic_file, cache_folder


def test_one_variable_moves_the_cache_and_nothing_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere" and not cache_folder().exists()


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", Path("base/clapkit")),
        ("win32", "LOCALAPPDATA", Path("base/clapkit")),
        ("linux", None, Path.home() / ".cache" / "clapkit"),
        ("darwin", None, Path.home() / "Library" / "Caches" / "clapkit"),
        ("win32", None, Path.home() / "AppData" / "Local" / "clapkit"),
    ],
)
def test_otherwise_it_is_where_the_system_wants_it(monkeypatch, platform, variable, expected):
    for name in ("CLAPKIT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "base")
    monkeypatch.setattr("sys.platform", platform)
    assert cache_folder() == expected


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.bin"
    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="on purpose"), atomic_file(path) as file:
        file.write(b"new")
        raise RuntimeError("on purpose")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
