"""Low-rank adapters: they alone learn, they can be merged, saved, resumed, and put in again by peft."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clapkit
from clapkit import native
from clapkit.cookbook import find_recipe
from clapkit.errors import MissingExtraError, RecipeError, SpecError
from clapkit.heads.anchors import AnchoredLinear
from clapkit.nets.blocks import transformer_blocks
from clapkit.spec import derive, spec
from clapkit.towers.htsat import HTSAT
from clapkit.towers.vit import PatchTransformer
from clapkit.train_settings import TuneSettings
from clapkit.training.loop import train
from clapkit.training.lora import Adapters

peft = pytest.importorskip("peft")

TOWERS = {
    "vit": spec(PatchTransformer, width=16, depth=2, heads=2, expansion=2),
    "htsat": spec(HTSAT, width=8, depths=(2, 2), heads=(2, 2), image=64, window=4, expansion=2.0),
}
LINEAR = {
    "vit": ("query_key_value", "out", "rise", "fall"),
    "htsat": ("attention.qkv", "attention.out", "rise", "fall"),
}


@pytest.fixture(scope="module", params=TOWERS)
def given(request, tiny_recipe, toy_clips, tmp_path_factory):
    """(name of the tower, run of a small model with it)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAPKIT_CACHE", str(tmp_path_factory.getbasetemp() / "clapkit-cache"))
        return request.param, made(tiny_recipe, toy_clips, tmp_path_factory, audio=TOWERS[request.param])


def made(tiny_recipe, toy_clips, tmp_path_factory, **parts):
    recipe = tiny_recipe.but(model=derive(tiny_recipe.model, **parts)).with_set("train.steps", 2)
    return train(recipe, toy_clips, out=tmp_path_factory.mktemp("given") / "run", device="cpu").path


def tuning(**settings):
    """`finetune` with adapters of rank 3, a few steps of it."""
    recipe = find_recipe("finetune").at("tiny").with_set("train.steps", 6).with_set("train.log_every", 1)
    recipe = recipe.with_set("train.lr", 3e-2).with_set("tune.lora_rank", 3)
    for name, value in settings.items():
        recipe = recipe.with_set(name.replace("__", "."), value)
    return recipe


def tune(folder, clips, out, **settings):
    how = {name: settings.pop(name) for name in ("resume", "stop_at_step") if name in settings}
    return train(tuning(**settings), clips, out=out, start=native.load(folder), device="cpu", **how)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def heard(model, clips):
    samples = torch.from_numpy(np.stack([clip.audio[:4000] for clip in clips]))
    with torch.no_grad():
        return model.eval().encode_audio(samples)


def test_only_the_layers_beside_the_adapters_change(given, toy_clips, tmp_path):
    name, folder = given
    run = tune(folder, toy_clips, tmp_path / "run")
    before, after = weights(folder), weights(run.path)
    assert before.keys() == after.keys(), "an ordinary model folder"
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    blocks = transformer_blocks(native.load(folder).model.audio)
    assert changed == {f"audio.{block}.{layer}.weight" for block in blocks for layer in LINEAR[name]}
    for key in changed:
        rank = torch.linalg.matrix_rank(after[key] - before[key], tol=1e-5)
        assert 0 < rank <= 3, key


def test_while_it_learns_every_other_tensor_stays_to_the_bit(given, toy_clips, tmp_path):
    _, folder = given
    start = native.load(folder)
    before = {key: tensor.clone() for key, tensor in start.model.state_dict().items()}
    assert train(tuning(), toy_clips, out=tmp_path / "run", start=start, stop_at_step=4, device="cpu") is None
    now = {key.replace(".base_layer", ""): tensor for key, tensor in start.model.state_dict().items()}
    added = now.keys() - before.keys()
    assert all(torch.equal(before[key], now[key]) for key in before)
    assert added and all(".lora_A." in key or ".lora_B." in key for key in added)
    assert {name for name, p in start.model.named_parameters() if p.requires_grad} == added
    assert all(bool(now[key].any()) for key in added), "every adapter has learnt"


def test_merged_and_unmerged_give_equal_vectors_also_by_peft(given, toy_clips, tmp_path):
    _, folder = given
    run = tune(folder, toy_clips, tmp_path / "run")
    merged = heard(native.load(run.path).model, toy_clips)
    plain = native.load(folder).model
    before = heard(plain, toy_clips)
    unmerged = heard(peft.PeftModel.from_pretrained(plain, str(run.path / "adapter")).base_model.model, toy_clips)
    assert (merged - unmerged).abs().max() < 1e-6
    assert (merged - before).abs().max() > 1e-2
    told = json.loads((run.path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["r"] == 3 and told["lora_alpha"] == 6 and told["peft_type"] == "LORA"
    assert told["base_model_name_or_path"] == native.load(folder).space_id


def test_a_blend_shortens_what_the_adapters_add(given, toy_clips, tmp_path):
    _, folder = given
    before = weights(folder)
    whole = weights(tune(folder, toy_clips, tmp_path / "whole").path)
    half = weights(tune(folder, toy_clips, tmp_path / "half", tune__blend=0.5).path)
    for key, tensor in before.items():
        expected = (tensor + whole[key]) / 2 if tensor.is_floating_point() else tensor
        assert torch.allclose(half[key], expected, atol=1e-6), key


def test_stopped_and_resumed_is_equal(given, toy_clips, tmp_path):
    _, folder = given
    whole = tune(folder, toy_clips, tmp_path / "whole", train__ema=0.5)
    for stop in (2, 5):
        assert tune(folder, toy_clips, tmp_path / "run", train__ema=0.5, resume=True, stop_at_step=stop) is None
    run = tune(folder, toy_clips, tmp_path / "run", train__ema=0.5, resume=True)
    first, second = weights(whole.path), weights(run.path)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert run.space_id == whole.space_id


def test_the_text_tower_learns_too_if_asked(given, toy_clips, tmp_path):
    _, folder = given
    run = tune(folder, toy_clips, tmp_path / "run", tune__learns="full")
    before, after = weights(folder), weights(run.path)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[0] for key in changed} == {"audio", "text"}
    assert all(key.endswith(".weight") and before[key].ndim == 2 for key in changed)
    clap = clapkit.load(run.path, device="cpu")
    assert not np.allclose(clap.embed_text(["bell"]), clapkit.load(folder, device="cpu").embed_text(["bell"]))


def test_anchors_stay_as_they_are(tiny_recipe, toy_clips, tmp_path_factory, tmp_path):
    parts = {"audio": TOWERS["vit"], "audio_head": spec(AnchoredLinear)}
    folder = made(tiny_recipe, toy_clips, tmp_path_factory, **parts)
    run = tune(folder, toy_clips[:6], tmp_path / "run")
    assert torch.equal(weights(folder)["audio_head.anchors_KD"], weights(run.path)["audio_head.anchors_KD"])


def test_a_tower_of_convolutions_is_refused(tiny_run, toy_clips, tmp_path):
    with pytest.raises(RecipeError, match=r"lora_rank=3: ResNetTower has no linear layer .* tune\.learns=audio"):
        tune(tiny_run.path, toy_clips, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lora_rank": 0}, "lora_rank is a whole number, 1 or more.*not 0"),
        ({"lora_rank": 1.5}, "lora_rank is a whole number.*not 1.5"),
        ({"lora_rank": 4, "lora_alpha": 0.0}, "lora_alpha has to be a number above 0.*not 0.0"),
        ({"lora_alpha": 2.0}, "lora_alpha=2.0 belongs to adapters"),
        ({"lora_rank": 4, "batch_norm": "live"}, "batch_norm has to be 'frozen'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(SpecError, match=told):
        TuneSettings(**settings)


def test_without_peft_the_install_line_is_told(given, toy_clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r'tune\.lora_rank needs .*peft.*pip install "clapkit\[train\]"'):
        tune(given[1], toy_clips, tmp_path / "run")


def test_an_adapter_adds_what_its_formula_says(given):
    """W x + alpha / rank B A x, with B and A as the layer holds them."""
    _, folder = given
    model = native.load(folder).model
    target = f"audio.{next(iter(transformer_blocks(model.audio)))}.rise"
    weight = model.get_submodule(target).weight.clone()
    adapters = Adapters(model, towers=("audio",), rank=2, alpha=5.0, seed=0, start="space-x")
    layer = model.get_submodule(target)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    low, high = layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone()
    adapters.merge()
    assert target in adapters.targets
    assert torch.allclose(model.get_submodule(target).weight, weight + 5.0 / 2 * high @ low, atol=1e-6)
