"""Short names of public checkpoints, and the way back from a downloaded file to its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clapkit.checkpoints.known import KNOWN, short_name
from clapkit.checkpoints.table import IMPORTERS

CACHE = "/home/someone/.cache/huggingface/hub"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"


def rows_of(first_column: str) -> list[dict[str, str]]:
    """The rows of the one table of the page that begins with this column, by the names of its columns."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : lines.index("", start)]]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


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


# ---- The page of public checkpoints ----------------------------------------------------------------------------------


def test_the_page_has_every_short_name_once_and_no_other():
    named = [name for row in rows_of("checkpoint") for name in quoted(row["short name"])]
    assert sorted(named) == sorted(KNOWN)
    for row in rows_of("checkpoint"):
        assert quoted(row["short name"]) or row["short name"] == "-"
        assert {KNOWN[name].family for name in quoted(row["short name"])} <= {row["family"]}


def test_the_page_has_every_family_and_says_how_it_is_verified():
    families = {importer.family for importer in IMPORTERS}
    assert {row["family"] for row in rows_of("checkpoint")} == families
    assert sorted(row["family"] for row in rows_of("family")) == sorted(families)
    for row in rows_of("family"):
        tests = quoted(row["own tests"])
        assert tests and all((PAGE.parent.parent / test).is_file() for test in tests)


def test_the_page_names_the_licence_that_inspect_names():
    licences = {importer.family: importer.licence for importer in IMPORTERS}
    for row in rows_of("checkpoint"):
        told = licences[row["family"]].lower().replace("-", " ")
        for licence in re.split("[;,] ", row["licence"].lower().replace("-", " ").replace("'s", "")):
            assert set(licence.split()) <= set(re.findall(r"[\w.]+", told)) | {"own"}, row["family"]


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.warning])
def test_the_page_warns_of_what_is_known_to_be_broken(name):
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{KNOWN[name].repository.rpartition('/')[2]}` is published with" in text
