"""The moving average of the weights: its closed form, what it holds, and runs that end with it."""

from __future__ import annotations

import filecmp

import pytest
import torch
from safetensors.torch import load_file

from clapkit.training import checkpoint
from clapkit.training.ema import Average
from clapkit.training.loop import train


@pytest.fixture
def model(tiny_recipe):
    torch.manual_seed(2)
    return tiny_recipe.model.build().train()


def drift(model, by: float) -> None:
    """As an optimizer would: every weight that learns moves by as much."""
    with torch.no_grad():
        for _, parameter in model.learnt():
            parameter.add_(by)


def test_after_k_steps_it_is_the_closed_form(model):
    """w_n = w_0 + n: average = d^k w_0 + (1 - d) sum_n d^(k - n) w_n."""
    decay, steps = 0.8, 5
    start = model.audio_head.linear.weight.detach().clone()
    average = Average(model, decay=decay, warmup=False)
    for n in range(1, steps + 1):
        drift(model, 1.0)
        average.update(n)
    expected = decay**steps * start + sum((1 - decay) * decay ** (steps - n) * (start + n) for n in range(1, steps + 1))
    torch.testing.assert_close(average.model.audio_head.linear.weight, expected)


def test_with_the_warm_up_it_follows_faster_at_first(model):
    """With w_0 = 0 and w_1 = w_2 = 1: decays 2/11 and 3/12, until `decay` is below them."""
    with torch.no_grad():
        model.logit_scale.zero_()
    slow, quick = Average(model, decay=0.99), Average(model, decay=0.1)
    drift(model, 1.0)
    for average, expected in ((slow, 1 - 2 / 11), (quick, 0.9)):
        average.update(1)
        assert float(average.model.logit_scale.detach()) == pytest.approx(expected)
    slow.update(2)
    assert float(slow.model.logit_scale.detach()) == pytest.approx(1 - 2 / 11 * 3 / 12)


def test_decay_0_is_the_model_itself_and_buffers_are_copied(model):
    average = Average(model, decay=0.0)
    model.encode_audio(torch.randn(3, 4000))  # moves running statistics and their counters
    drift(model, 0.5)
    average.update(1)
    for name, tensor in checkpoint.learnt_state(model).items():
        assert torch.equal(average.state()[name], tensor), name
    assert any("num_batches_tracked" in name for name in average.state())


def test_what_does_not_learn_is_not_held_twice(model):
    average = Average(model, decay=0.5)
    mine, theirs = dict(average.model.named_parameters()), dict(model.named_parameters())
    assert all((mine[name] is theirs[name]) == name.startswith("text.") for name in theirs)
    assert average.state().keys() == checkpoint.learnt_state(model).keys()
    assert not any(p.requires_grad for p in mine.values()) and any(p.requires_grad for p in theirs.values())
    assert not any(module.training for module in average.model.modules()) and model.training


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def averaged(tiny_recipe, toy_clips, tmp_path_factory):
    """A run that ends with its average, and its recipe."""
    recipe = tiny_recipe.with_set("train.steps", 6).with_set("train.ema", 0.7)
    return train(recipe, toy_clips, out=tmp_path_factory.mktemp("ema") / "run", device="cpu"), recipe


def test_a_run_ends_with_the_average_of_what_its_steps_left(averaged, toy_clips, tmp_path):
    """Run again step by step, the weights after each step averaged by hand."""
    run, recipe = averaged
    name = "audio_head.linear.weight"
    torch.manual_seed(recipe.train.seed)
    expected = recipe.model.build().state_dict()[name]
    for step in range(1, 7):
        train(recipe, toy_clips, out=tmp_path / "again", resume=step > 1, device="cpu", stop_at_step=step)
        state = load_file(tmp_path / "again" / "checkpoints" / f"step_{step:08d}" / "state.safetensors")
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * state[f"model.{name}"]
        torch.testing.assert_close(state[f"average.{name}"], expected)
    torch.testing.assert_close(weights(run.path)[name], expected)
    assert not torch.equal(weights(run.path)[name], state[f"model.{name}"])


def test_the_other_result_is_the_weights_themselves_and_needs_no_training(
    averaged, tiny_recipe, toy_clips, tmp_path, monkeypatch
):
    run, recipe = averaged
    plain = train(tiny_recipe.with_set("train.steps", 6), toy_clips, out=tmp_path / "plain", device="cpu")
    monkeypatch.setattr("clapkit.training.loop.take_step", None)  # a step would fail
    last = recipe.with_set("train.ema_result", False)
    before = weights(run.path)
    again = train(last, toy_clips, out=run.path, resume=True, device="cpu")
    assert again.space_id == plain.space_id
    assert {k: v for k, v in weights(run.path).items() if not torch.equal(v, before[k])}


def test_stopped_and_resumed_is_equal_to_the_last_bit(averaged, toy_clips, tmp_path):
    _, recipe = averaged
    whole = train(recipe, toy_clips, out=tmp_path / "whole", device="cpu")
    train(recipe, toy_clips, out=tmp_path / "run", device="cpu", stop_at_step=2)
    train(recipe, toy_clips, out=tmp_path / "run", device="cpu", resume=True, stop_at_step=5)
    run = train(recipe, toy_clips, out=tmp_path / "run", device="cpu", resume=True)
    assert filecmp.cmp(run.model_path / "model.safetensors", whole.model_path / "model.safetensors", shallow=False)
