"""Towers that torch compiles give the gradients that they give by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clapkit import native
from clapkit.audio.features import Features
from clapkit.errors import RecipeError, SpecError
from clapkit.nets.blocks import Compiled, check_compiler
from clapkit.nets.products import quick_products
from clapkit.spec import derive, spec
from clapkit.towers.vit import PatchTransformer
from clapkit.train_settings import TrainSettings, TuneSettings
from clapkit.training.loop import train
from clapkit.training.parallel.sharding import check

TOWER = spec(PatchTransformer, width=16, depth=1, heads=2, expansion=2)


@pytest.fixture(scope="module")
def compiler():
    try:
        check_compiler(torch.device("cpu"))
    except RecipeError as error:
        pytest.skip(f"torch cannot compile on this machine: {error}")


@pytest.fixture
def graphs(monkeypatch):
    """torch.compile without the code of a compiler: the same graphs, run by torch itself, within seconds."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compiled(f, **{**how, "backend": "aot_eager"}))
    torch.compiler.reset()


def gradients(tower, features):
    tower.zero_grad()
    with quick_products(torch.device("cpu")):
        out = tower(features)
        (out.summary_BD.square().sum() + out.frames_BTD.sin().sum()).backward()
    return [p.grad.clone() for p in tower.parameters() if p.grad is not None]


def test_gradients_are_those_of_the_tower(compiler):
    torch.manual_seed(0)
    tower = TOWER.build()
    features = Features(torch.randn(4, 64, 64), torch.ones(4, 64, dtype=torch.bool))
    plain = gradients(tower, features)
    names = list(tower.state_dict())
    compiled = Compiled(tower)
    with compiled():
        assert "forward" in vars(tower)
        made = gradients(tower, features)
    assert "forward" not in vars(tower) and list(tower.state_dict()) == names
    assert len(plain) == len(made) and max(float(p.abs().max()) for p in plain) > 1e-2
    for expected, found in zip(plain, made, strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def weights(run):
    return native.load(run.path).model.state_dict()


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 3, "drop_tokens": 0.5}])
def test_a_run_ends_with_nearly_the_same_weights(tiny_recipe, toy_clips, tmp_path, graphs, settings):
    recipe = tiny_recipe.but(model=derive(tiny_recipe.model, audio=TOWER))
    recipe = recipe.but(train=replace(recipe.train, steps=3, lr=1e-3, **settings))
    plain = train(recipe, toy_clips, out=tmp_path / "plain", device="cpu")
    made = train(recipe.with_set("train.compile", True), toy_clips, out=tmp_path / "compiled", device="cpu")
    first, second = weights(plain), weights(made)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_a_run_goes_on_compiled_or_not_and_adapters_compile(tiny_recipe, toy_clips, tmp_path, graphs):
    before = tiny_recipe.but(model=derive(tiny_recipe.model, audio=TOWER)).with_set("train.steps", 4)
    run = train(before, toy_clips, out=tmp_path / "run", device="cpu", stop_at_step=2)
    run = train(before.with_set("train.compile", True), toy_clips, out=tmp_path / "run", device="cpu", resume=True)
    tuned = before.but(model=None, tune=TuneSettings(lora_rank=2), scales={}).with_set("train.steps", 2)
    plain, made = (
        train(tuned.with_set("train.compile", c), toy_clips, out=tmp_path / f"{c}", start=native.load(run.path))
        for c in (False, True)
    )
    first, second = weights(plain), weights(made)
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_a_machine_that_cannot_compile_says_so_before_the_first_step(tiny_recipe, toy_clips, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(RecipeError, match=r"cannot compile for 'cpu' here \(No working C\+\+ compiler found\).*g\+\+"):
        train(tiny_recipe.with_set("train.compile", True), toy_clips, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_does_not_go_together_is_refused(tiny_recipe):
    with pytest.raises(SpecError, match=r"train\.compile and train\.checkpoint_activations do not go together"):
        TrainSettings(compile=True, checkpoint_activations=True)
    with pytest.raises(RecipeError, match=r"parallel='fsdp' cannot train compiled towers"):
        check(tiny_recipe.but(train=replace(tiny_recipe.train, parallel="fsdp", compile=True)))
    adapted = tiny_recipe.but(model=None, tune=TuneSettings(lora_rank=3))
    with pytest.raises(RecipeError, match=r"parallel='fsdp' cannot train adapters \(tune\.lora_rank=3\)"):
        check(adapted.with_set("train.parallel", "fsdp"))
