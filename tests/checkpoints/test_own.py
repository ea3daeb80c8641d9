"""The model that is meant where none is named."""

from __future__ import annotations

import sys

import pytest

import clapkit
from clapkit.checkpoints.hub import locate
from clapkit.checkpoints.own import FOLDER_VARIABLE, OWN, find_own
from clapkit.errors import CheckpointError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


def test_the_variable_names_it(tiny_run, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tiny_run.path))
    assert locate(OWN) == tiny_run.path
    assert clapkit.load().space_id == clapkit.load(tiny_run.path).space_id


def test_the_data_package_has_it(tmp_path, monkeypatch):
    folder = tmp_path / "clapkit_tiny" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder.parent / "__init__.py").write_text("raise RuntimeError('it was run')\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find_own() == folder
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert find_own() == tmp_path, "the variable comes first"


def test_a_path_of_that_name_is_meant_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / OWN).mkdir()
    assert locate(OWN).resolve() == (tmp_path / OWN).resolve()


def test_what_is_refused(monkeypatch):
    with pytest.raises(CheckpointError, match="no model was named, and clapkit-tiny is not on this machine"):
        clapkit.load()
    monkeypatch.setenv(FOLDER_VARIABLE, "nowhere/at/all")
    with pytest.raises(CheckpointError, match="CLAPKIT_MODEL names 'nowhere/at/all'"):
        find_own()
