"""What the log says of vectors that grow alike, against loops, and on a run that collapses."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from clapkit.training.loop import train
from clapkit.training.watch import PATIENCE, Watch, effective_rank, mean_cosine


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_numbers_against_loops():
    audio_BD, text_UD = unit(7, 5), unit(9, 5, seed=1)
    cosines = [float(a @ b) for a, b in itertools.permutations(audio_BD, 2)]
    assert mean_cosine(audio_BD) == pytest.approx(np.mean(cosines))
    values = np.linalg.svd(audio_BD.numpy(), compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(audio_BD) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
    watch = Watch()
    watch.wanted = True
    watch({"audio_BD": audio_BD, "text_UD": text_UD})
    gap = float(np.linalg.norm(audio_BD.numpy().mean(0) - text_UD.numpy().mean(0)))
    assert watch.report()["gap"] == pytest.approx(gap, abs=1e-6)


def test_limits():
    assert mean_cosine(torch.eye(4)) == pytest.approx(0)
    assert mean_cosine(unit(1, 4)) == 0
    one = unit(1, 4).expand(6, 4)
    assert mean_cosine(one) == pytest.approx(1) and effective_rank(one) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.eye(4)) == pytest.approx(4)


def test_it_looks_when_it_is_asked_and_says_nothing_twice():
    watch = Watch()
    watch({"audio_BD": unit(4, 3), "text_UD": unit(5, 3)})
    assert watch.report() == {}
    watch.wanted = True
    watch({"audio_BD": unit(4, 3), "text_UD": unit(5, 3)})
    assert set(watch.report()) == {"audio_cosine", "text_cosine", "audio_rank", "gap"}
    assert watch.report() == {}


def test_the_warning_waits_and_is_taken_back():
    watch = Watch()
    watch.wanted = True

    def seen(vectors_BD):
        watch({"audio_BD": vectors_BD, "text_UD": unit(5, 3)})
        return "warning" in watch.report()

    same = unit(1, 3).expand(4, 3)
    with pytest.warns(UserWarning, match=r"vectors of all sounds .*VICReg.*train\.lr"):
        assert [seen(same) for _ in range(PATIENCE + 1)] == [False] * (PATIENCE - 1) + [True, True]
    assert not seen(unit(4, 3)) and not seen(same)


@dataclass(frozen=True)
class Alignment:
    """Pairs are drawn together, and nothing keeps others apart: every vector the same is its optimum."""

    needs: ClassVar[tuple[str, ...]] = ("audio", "text")
    reduces: ClassVar[str] = "samples"

    def __call__(self, z):
        return {"alignment": -(z.audio_BD @ z.text_UD.T).mean()}


def test_a_run_that_collapses_says_so_and_another_does_not(tiny_recipe, toy_clips, tmp_path):
    short = tiny_recipe.with_set("train.log_every", 4)
    with pytest.warns(UserWarning, match="the model has collapsed"):
        run = train(short.but(objective=Alignment()), toy_clips, out=tmp_path / "collapsed", device="cpu")
    for last in run.log()[-5:]:
        assert "nearly the same" in last["warning"] and min(last["audio_cosine"], last["text_cosine"]) > 0.99
        assert last["audio_rank"] < 2 and last["gap"] < 0.2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*collapsed")
        run = train(short, toy_clips, out=tmp_path / "sound", device="cpu")
    for record in run.log()[-5:]:  # the texts of this tower, which has random weights, are alike from the beginning
        assert "warning" not in record
        assert record["audio_cosine"] < 0.95 and record["text_cosine"] < 0.97 and record["audio_rank"] > 2.5
