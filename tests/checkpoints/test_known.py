"""Short names of public checkpoints, and the way back from a downloaded file to its name."""

from __future__ import annotations

import re

import pytest

from clapkit.checkpoints.known import KNOWN, short_name
from clapkit.checkpoints.table import IMPORTERS

CACHE = "/home/someone/.cache/huggingface/hub"


@pytest.mark.parametrize("name", KNOWN)
def test_each_entry_can_be_found_and_read(name):
    known = KNOWN[name]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", known.repository)
    assert known.family in {importer.family for importer in IMPORTERS}
    assert known.about and known.warning != ""


@pytest.mark.parametrize("name", KNOWN)
def test_a_downloaded_file_has_its_short_name(name):
    known = KNOWN[name]
    place = f"{CACHE}/models--{known.repository.replace('/', '--')}/snapshots/0123abc"
    assert short_name(f"{place}/{known.file}" if known.file else place) == name
    if known.file is None:
        assert short_name(f"{place}/model.safetensors") == name


@pytest.mark.parametrize(
    "path",
    [
        "larger_clap_music",
        "hf-clap-music",
        "630k-audioset-best.pt",
        f"{CACHE}/models--lukewys--laion_clap/snapshots/0123abc",
        f"{CACHE}/models--lukewys--laion_clap/snapshots/0123abc/other.pt",
        f"{CACHE}/models--someone--larger_clap_music/snapshots/0123abc",
        f"{CACHE}/models--laion--larger_clap_music/blobs/0123abc",
    ],
)
def test_other_paths_have_none(path):
    assert short_name(path) is None


def test_no_two_names_mean_the_same_file():
    assert len({(known.repository, known.file) for known in KNOWN.values()}) == len(KNOWN)
