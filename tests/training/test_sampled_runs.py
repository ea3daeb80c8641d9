"""Runs whose batches are chosen by a sampler: they train, and go on in the middle of an epoch to the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clapkit.data.balance import BalancedStreams, ClassBalanced
from clapkit.data.grouping import SameSource, WithReplica
from clapkit.data.lengths import ByLength
from clapkit.errors import DataError
from clapkit.recipe import Recipe
from clapkit.training.loop import train

SAMPLERS = [
    ClassBalanced(),
    BalancedStreams(column="label", shares=(("rain", 3), ("siren", 1), ("bell", 0))),
    SameSource(column="label", per_source=4),
    WithReplica(of=ClassBalanced(distinct=True)),
    ByLength(buckets=2),
]


def steps_of(recipe: Recipe, sampler, steps: int = 4) -> Recipe:
    """`recipe` with another sampler, for a few steps; a batch that ends with its longest clip where lengths differ."""
    size = replace(recipe.batch, clips=8, trim=isinstance(sampler, ByLength))
    settings = replace(recipe.train, steps=steps, log_every=1)
    return recipe.but(sampler=sampler, batch=size, train=settings)


def given(sampler, clips):
    if isinstance(sampler, BalancedStreams):
        return [clip for clip in clips if clip.label in dict(sampler.shares)]
    if isinstance(sampler, ByLength):
        return [clip.with_(audio=clip.audio[: 1500 + 150 * n]) for n, clip in enumerate(clips)]
    return clips


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_a_run_goes_on_in_the_middle_of_an_epoch(sampler, tiny_recipe, toy_clips, tmp_path):
    recipe, clips = steps_of(tiny_recipe, sampler), given(sampler, toy_clips)
    train(recipe, clips, out=tmp_path / "whole", device="cpu")
    assert train(recipe, clips, out=tmp_path / "parts", device="cpu", stop_at_step=2) is None
    run = train(Recipe.from_json(recipe.to_json()), clips, out=tmp_path / "parts", resume=True, device="cpu")
    made = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert made[0] == made[1]
    assert [record["step"] for record in run.log()] == [0, 1, 2, 3]


def test_what_a_sampler_cannot_do_with_the_clips_is_told_before_a_step(tiny_recipe, toy_clips, tmp_path):
    with pytest.raises(DataError, match="1 of 24 clips have no 'label'"):
        unlabelled = [toy_clips[0].with_(label=None, captions=("a bell",)), *toy_clips[1:]]
        train(steps_of(tiny_recipe, ClassBalanced()), unlabelled, out=tmp_path / "a", device="cpu")
    with pytest.raises(DataError, match="a batch of 8 clips cannot be of different classes, there are 6"):
        train(steps_of(tiny_recipe, ClassBalanced(distinct=True)), toy_clips, out=tmp_path / "b", device="cpu")
    assert not list(tmp_path.glob("*/log.jsonl"))
