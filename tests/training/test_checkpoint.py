"""Checkpoints: whole or absent, the newest kept, the state exactly restored. And the log beside them."""

from __future__ import annotations

import json
import math

import pytest
import torch

from clapkit.errors import ModelError
from clapkit.training import checkpoint
from clapkit.training.log import JsonLines
from clapkit.training.optim import build_optimizer


def progress(step: int) -> checkpoint.Progress:
    return checkpoint.Progress(step, {"train": {"lr": 0.1}}, "data", "frozen")


@pytest.fixture
def trained(tiny_recipe):
    """A model and its optimizer after two steps on a made-up loss."""
    return stepped(tiny_recipe, 2)


def stepped(recipe, steps: int, seed: int = 0):
    torch.manual_seed(seed)
    model = recipe.model.build().train()
    optimizer = build_optimizer(model, recipe.train)
    for _ in range(steps):
        optimizer.zero_grad()
        model.encode_audio(torch.randn(3, 4000)).square().mul(torch.linspace(0, 1, 16)).sum().mul(
            model.scale
        ).backward()
        optimizer.step()
    return model, optimizer


def test_restores_weights_statistics_and_optimizer_exactly(trained, tiny_recipe, tmp_path):
    written = checkpoint.write(tmp_path, checkpoint.held(trained[0]), trained[1], progress(2), keep=2)
    model, optimizer = stepped(tiny_recipe, 1, seed=9)
    checkpoint.restore(written, checkpoint.held(model), optimizer)
    for name, tensor in trained[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for index, state in trained[1].state_dict()["state"].items():
        for key, tensor in state.items():
            assert torch.equal(optimizer.state_dict()["state"][index][key], tensor)
    assert checkpoint.read_progress(written) == progress(2)


def test_frozen_text_is_not_in_it_and_learning_text_is(trained, tiny_recipe):
    held = checkpoint.learnt_state(trained[0])
    assert not any(name.startswith("text.") for name in held)
    assert any("running_mean" in name for name in held) and "logit_scale" in held
    learning = tiny_recipe.with_set("model.frozen_text", False).model.build()
    assert any(name.startswith("text.") for name in checkpoint.learnt_state(learning))


def test_the_newest_are_kept(trained, tmp_path):
    for step in (1, 2, 10, 100):
        checkpoint.write(tmp_path, checkpoint.held(trained[0]), trained[1], progress(step), keep=2)
    assert [p.name for p in checkpoint.list_steps(tmp_path)] == ["step_00000010", "step_00000100"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failure_while_writing_leaves_the_one_before(trained, tmp_path, monkeypatch):
    kept = checkpoint.write(tmp_path, checkpoint.held(trained[0]), trained[1], progress(1), keep=1)
    before = (kept / "state.safetensors").read_bytes()

    def full(folder):
        raise OSError("no space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(ModelError, match=r"no space left on device.*step_00000001.*is whole"),
    ):
        patch.setattr(checkpoint, "_flush", full)
        checkpoint.write(tmp_path, checkpoint.held(trained[0]), trained[1], progress(2), keep=1)
    assert checkpoint.list_steps(tmp_path) == [kept] == list(tmp_path.iterdir())
    unchanged = (kept / "state.safetensors").read_bytes() == before
    assert unchanged


def test_what_a_killed_process_left_is_not_seen_and_goes_away(trained, tmp_path):
    half = tmp_path / ".step_00000005.77.partial"
    half.mkdir()
    (half / "progress.json").write_text("{}")
    (tmp_path / "step_00000006").mkdir()  # a folder without its progress is none either
    assert checkpoint.list_steps(tmp_path) == []
    checkpoint.write(tmp_path, checkpoint.held(trained[0]), trained[1], progress(7), keep=1)
    assert not half.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ('{"format_version": 99}', "format_version 99, this clapkit reads 1"), ("{}", "cannot")],
)
def test_progress_that_cannot_be_read_is_told(tmp_path, text, message):
    (tmp_path / "progress.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        checkpoint.read_progress(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(trained, tiny_recipe, tmp_path):
    written = checkpoint.write(tmp_path, checkpoint.held(trained[0]), trained[1], progress(1), keep=1)
    deeper = tiny_recipe.with_set("model.audio.depths", (1, 2)).model.build()
    with pytest.raises(ModelError, match=r"does not fit the model: .*audio"):
        checkpoint.restore(written, checkpoint.held(deeper), build_optimizer(deeper, tiny_recipe.train))


def test_is_finite_sees_one_wrong_number(trained):
    assert checkpoint.is_finite(checkpoint.held(trained[0]))
    with torch.no_grad():
        trained[0].audio_head.linear.bias[3] = math.inf
    assert not checkpoint.is_finite(checkpoint.held(trained[0]))


def test_the_log_drops_what_is_done_again(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonLines(path, first_step=0) as log:
        for step in range(6):
            log.write({"step": step, "loss": step / 3, "note": "x"})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')  # a kill cuts a line in half
    with JsonLines(path, first_step=4) as log:
        log.write({"step": 4, "loss": math.nan})
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [r["step"] for r in records] == [0, 1, 2, 3, 4]
    assert records[1] == {"step": 1, "loss": 0.333333, "note": "x"} and records[4]["loss"] == "nan"
