"""What cannot go well is told before the first step; where a disk is full, what was saved stays."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError

from clapkit.errors import ModelError, RecipeError
from clapkit.objectives.combine import weighted
from clapkit.objectives.contrast import InfoNCE
from clapkit.objectives.sigmoid import PairwiseSigmoid
from clapkit.spec import derive, spec
from clapkit.towers.vit import PatchTransformer
from clapkit.training import checkpoint
from clapkit.training.loop import train

STEPS = 4


@pytest.fixture
def short(tiny_recipe):
    return tiny_recipe.with_set("train.steps", STEPS)


@pytest.mark.parametrize("objective", [PairwiseSigmoid(), weighted((InfoNCE(), 1.0), (PairwiseSigmoid(), 0.5))])
def test_a_sigmoid_without_bias_is_refused(short, toy_clips, tmp_path, objective, monkeypatch):
    monkeypatch.setattr("clapkit.training.loop.take_step", None)  # a step would fail otherwise
    with pytest.raises(RecipeError, match=r"PairwiseSigmoid.*this model has none.*model\.pair_bias=-10"):
        train(short.but(objective=objective), toy_clips, out=tmp_path / "run", device="cpu")


def test_a_sigmoid_with_bias_trains(short, toy_clips, tmp_path):
    recipe = short.but(objective=PairwiseSigmoid(), model=derive(short.model, pair_bias=-2.0))
    assert train(recipe, toy_clips, out=tmp_path / "run", device="cpu") is not None


def test_a_batch_larger_than_the_data_is_told(short, toy_clips, tmp_path):
    with pytest.warns(UserWarning, match=r"a batch has 30 clips and the data 24.*batch\.clips=24 or less"):
        train(short.with_set("batch.clips", 30), toy_clips, out=tmp_path / "run", device="cpu")


def test_nothing_to_compute_again_is_refused(short, toy_clips, tmp_path):
    with pytest.raises(RecipeError, match=r"checkpoint_activations: ResNetTower .*no transformer blocks"):
        train(short.with_set("train.checkpoint_activations", True), toy_clips, out=tmp_path / "run", device="cpu")


def test_recomputed_blocks_give_the_same_weights(short, toy_clips, tmp_path):
    recipe = short.but(model=derive(short.model, audio=spec(PatchTransformer, width=16, depth=2, heads=2)))
    plain = train(recipe, toy_clips, out=tmp_path / "plain", device="cpu")
    again = recipe.with_set("train.checkpoint_activations", True)
    for name, settings in {"whole": {}, "parts": {"micro_batch": 3}}.items():
        wanted, found = (r for r in (recipe, again))
        for key, value in settings.items():
            wanted, found = wanted.with_set(f"train.{key}", value), found.with_set(f"train.{key}", value)
        expected = plain if not settings else train(wanted, toy_clips, out=tmp_path / f"plain {name}", device="cpu")
        made = train(found, toy_clips, out=tmp_path / name, device="cpu")
        assert made.space_id == expected.space_id


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_keeps_the_last_checkpoint(short, toy_clips, tmp_path, monkeypatch, error):
    whole = train(short, toy_clips, out=tmp_path / "whole", device="cpu")
    assert train(short, toy_clips, out=tmp_path / "run", device="cpu", stop_at_step=2) is None

    def full(tensors, path):
        path.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        told = r"step_00000004 of .* MiB .*No space left.*'step_00000002' is whole.*--resume"
        with pytest.raises(ModelError, match=told):
            train(short, toy_clips, out=tmp_path / "run", device="cpu", resume=True)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000002"]
    run = train(short, toy_clips, out=tmp_path / "run", device="cpu", resume=True)
    assert run.space_id == whole.space_id


def test_a_full_disk_at_the_end_can_be_mended(short, toy_clips, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clapkit.training.beginning.save", full)
        told = r"could not be written to .*model.*No space left.*last checkpoint.*--resume"
        with pytest.raises(ModelError, match=told):
            train(short, toy_clips, out=tmp_path / "run", device="cpu")
    monkeypatch.setattr("clapkit.training.loop.take_step", None)  # no step is needed again
    assert train(short, toy_clips, out=tmp_path / "run", device="cpu", resume=True).model_path.is_dir()


def test_another_model_is_refused_on_resume(short, toy_clips, tmp_path):
    train(short, toy_clips, out=tmp_path / "run", device="cpu", stop_at_step=2)
    wider = short.with_set("model.audio.width", 8)
    with pytest.raises(ModelError, match=r"belongs to another recipe.*model\.audio\.width \(4 there, 8 here\)"):
        train(wider, toy_clips, out=tmp_path / "run", device="cpu", resume=True)
    assert torch.is_grad_enabled()
