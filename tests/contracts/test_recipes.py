"""Every recipe of the package, built at its tiny scale: it trains, is saved, and comes back the same."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import clapkit
from clapkit import cookbook, native
from clapkit.data.clip import Clip
from clapkit.recipe import Recipe
from clapkit.training.loop import train

NAMES = sorted(cookbook.recipe_files())


def sounds(count: int = 12) -> list[Clip]:
    """Tones and noises of half a second to three seconds, with captions and labels."""
    rng = np.random.default_rng(5)
    clips = []
    for i in range(count):
        time_s = np.arange(int((0.5 + 0.2 * i) * 32000)) / 32000
        tone = np.sin(2 * np.pi * (200 + 150 * i) * time_s) if i % 2 else rng.standard_normal(len(time_s))
        kind = "a tone" if i % 2 else "noise"
        about = {"captions": (f"{kind} number {i}",), "label": kind, "meta": {"source": f"{kind} box"}}
        clips.append(Clip(f"clip{i}", (0.2 * tone).astype(np.float32), **about))
    return clips


def given_model(folder: Path) -> native.Loaded:
    """What a recipe that trains a model further is given."""
    run = train(cookbook.find_recipe("contrastive").at("tiny").with_set("train.steps", 1), sounds(), out=folder)
    assert run is not None
    return native.load(run.path)


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_is_saved_and_loads(name, tmp_path):
    recipe = cookbook.find_recipe(name).at("tiny").with_set("train.steps", 2).with_set("train.log_every", 1)
    start = given_model(tmp_path / "given") if recipe.model is None else None
    run = train(recipe, sounds(), out=tmp_path / "run", start=start, device="cpu")
    assert run is not None
    assert [np.isfinite(record["loss"]) for record in run.log()] == [True, True]
    clap = clapkit.load(tmp_path / "run")
    vectors = clap.embed_audio([(sounds()[0].audio, 32000), (sounds()[7].audio, 32000)])
    assert vectors.shape == (2, clap.dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_survives_json(name):
    recipe = cookbook.find_recipe(name)
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.to_json() == recipe.to_json()


@pytest.mark.parametrize("name", NAMES)
def test_its_head_says_what_how_and_how_long(name):
    module = cookbook.recipe_files()[name]
    path = Path(clapkit.__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert head, f"{name} has no docstring"
    for word in ("Run:", "Cost:", "Effect:"):
        assert word in head, f"{name} does not state its {word}"


def test_a_recipe_is_built_without_touching_the_global_seed():
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    cookbook.find_recipe("contrastive").at("tiny")
    assert torch.equal(before, torch.random.get_rng_state())
