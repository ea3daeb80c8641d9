"""A run with predictors ends with their predictions, or without them if it is told so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import clapkit
from clapkit import native
from clapkit.errors import RecipeError
from clapkit.heads.predicted import PredictedHead
from clapkit.objectives.siamese import Siamese
from clapkit.train_settings import TuneSettings
from clapkit.training.companions import Predictors, Teacher
from clapkit.training.loop import train


@pytest.fixture
def slap(tiny_recipe):
    train_settings = replace(tiny_recipe.train, steps=6, ema=0.9, ema_result=False)
    return tiny_recipe.but(
        objective=Siamese(), beside=(Teacher(), Predictors(hidden_width=24, result=True)), train=train_settings
    )


def test_what_is_embedded_is_the_prediction_made_of_what_the_heads_alone_say(slap, toy_clips, tmp_path):
    """Two runs that differ in the end alone; the predictors, in the checkpoint of either, make one of the other."""
    ends = {}
    for result in (True, False):
        recipe = slap.with_set("beside.1.result", result)
        run = train(recipe, toy_clips, out=tmp_path / f"{result}", device="cpu")
        clap = clapkit.load(run.path, device="cpu")
        ends[result] = clap.embed_audio([(toy_clips[0].audio, 8000)]), clap.embed_text(["hear it"])
        assert isinstance(native.load(run.path).model.text_head, PredictedHead) == result
    (kept,) = (tmp_path / "True" / "checkpoints").iterdir()
    state = load_file(kept / "state.safetensors")
    networks = slap.beside[1].build(16, seed=0)
    networks.load_state_dict({n.removeprefix("predictors."): t for n, t in state.items() if n.startswith("pred")})
    for side, name in enumerate(("audio_prediction", "text_prediction")):
        plain = torch.from_numpy(np.asarray(ends[False][side]))
        with torch.no_grad():
            expected = torch.nn.functional.normalize(networks[name](plain), dim=-1).numpy()
        np.testing.assert_allclose(ends[True][side], expected, atol=2e-4)
        assert np.abs(ends[True][side] - ends[False][side]).max() > 2e-3, name


def test_heads_with_predictors_cannot_be_blended_with_heads_without(slap, toy_clips, tmp_path):
    tuned = slap.but(model=None, tune=TuneSettings(learns="full", blend=0.5))
    with pytest.raises(RecipeError, match=r"tune\.blend=0\.5 mixes them .*set tune\.blend=1, or result=False"):
        train(tuned, toy_clips, out=tmp_path / "run")
