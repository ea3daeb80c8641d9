"""Which clips may teach weights that are given away."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.building.released.licences import HELD_OUT, allows, select, sets_in
from clapkit.data.clip import Clip
from clapkit.errors import DataError


@pytest.mark.parametrize(
    "licence",
    [
        "CC0 1.0",
        "CC 0 guyburns https://example.org/1",
        "CC BY 4.0 (Freesound, xserra)",
        "CC-BY-3.0 Mike Koenig https://example.org/by-nc/1",
        "CC-BY/CC0 one & two https://example.org",
        "MIT per repository LICENSE",
        "dataset CC BY-NC 3.0; clip CC0 by somebody",
        "dataset CC BY-NC 3.0; clip CC-BY by nc-sampling",
    ],
)
def test_free_licences_pass(licence):
    assert allows(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        "CC BY-NC 3.0",
        "CC BY-SA 4.0",
        "CC BY-ND 4.0",
        "Sampling Plus 1.0 somebody",
        "dataset CC BY-NC 3.0; clip CC-BY-NC by cc0",
        "dataset CC BY-NC 3.0; clip CC-Sampling+ by somebody",
        "dataset CC BY 3.0; clip ",
        "freely accessible; listed as CC0 elsewhere (unverified here)",
        "a university's licence, non-commercial academic use with attribution",
    ],
)
def test_conditions_and_doubts_do_not(licence):
    assert not allows(licence)


def clip(name: str, licence: str, **about) -> Clip:
    return Clip(name, np.zeros(4, np.float32), captions=("a sound",), label="sound", meta={"licence": licence}, **about)


def fakes() -> dict[str, list[Clip]]:
    return {
        "free": [clip("a", "CC0 1.0"), clip("b", "CC BY-NC 3.0"), clip("c", "CC0 1.0", split="test")],
        "folds": [clip("d", "clip CC0 by x", split="fold4"), clip("e", "clip CC0 by x", split="fold5")],
        "fsdd": [clip("f", "CC BY-SA 4.0")],
    }


def test_the_released_variant_hears_free_clips_and_says_what_it_left_out():
    made = select(fakes(), variant="released")
    assert [c.id for c in made.clips] == ["free/a", "folds/d"]
    assert made.left_out == {"free": {"licence": 1, "held out": 1}, "folds": {"held out": 1}, "fsdd": {"licence": 1}}
    assert made.count() == {"folds": 1, "free": 1}
    assert made.attributions == ("folds | clip CC0 by x", "free | CC0 1.0")


def test_the_research_variant_hears_all_but_what_is_held_out():
    made = select(fakes(), variant="research")
    assert [c.id for c in made.clips] == ["free/a", "free/b", "folds/d", "fsdd/f"]
    assert made.clips[-1].label is None and made.clips[-1].captions == ("a sound",), "digits name no sound"
    assert made.clips[0].label == "sound" and made.clips[0].meta["set"] == "free"


def test_what_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no variant 'release'; .*released"):
        select(fakes(), variant="release")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no clip of 'x' states a licence"):
        select({"x": [clip("a", "")]}, variant="research")
    with pytest.raises(DataError, match="holds no set of sounds"):
        sets_in(tmp_path)


def test_the_real_manifests(shared_data):
    sets = sets_in(shared_data)
    released, research = (select(sets, variant=name) for name in ("released", "research"))
    assert not {c.split for c in research.clips} & set(HELD_OUT)
    assert {c.id for c in released.clips} < {c.id for c in research.clips}
    assert released.count().keys() == research.count().keys() - {"emodb", "fsdd"}
    for c in released.clips:
        stated = str(c.meta["licence"]).rpartition("clip ")[2].partition(" by ")[0]
        assert not any(mark in stated for mark in ("-NC", "-SA", "Sampling")), stated
    by_author = [line for line in released.attributions if "dobroide" in line]
    assert by_author and all("freesound" in line for line in by_author)
