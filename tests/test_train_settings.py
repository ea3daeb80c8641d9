"""Length and learning rate of a run."""

from __future__ import annotations

import math

import pytest

from clapkit.errors import SpecError
from clapkit.train_settings import TrainSettings


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    settings = TrainSettings(lr=2.0, warmup_steps=10, final_lr_share=0.1)
    rates = [settings.lr_at(step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0 and rates[60] == pytest.approx((2.0 + 0.2) / 2)
    for step in range(10, 110):
        assert rates[step] == pytest.approx(0.2 + 1.8 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2)
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_short_runs_have_a_short_warm_up_and_reach_the_peak(total):
    rates = [TrainSettings(lr=1.0, warmup_steps=100).lr_at(step, total) for step in range(total)]
    assert max(rates) == 1.0 and min(rates) > 0


def test_steps_win_over_epochs():
    assert TrainSettings(epochs=3).total_steps(100, 16) == math.ceil(300 / 16)
    assert TrainSettings(epochs=0.001).total_steps(100, 16) == 1
    assert TrainSettings(epochs=3, steps=7).total_steps(100, 16) == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(n, v) for n in ("lr", "clip_norm", "epochs", "checkpoint_s") for v in (0, -1.0, math.inf, math.nan)],
        *[("keep", 0), ("log_every", 0), ("steps", 0), ("precision", "fp8"), ("seed", -1), ("seed", 2**31)],
        *[("ema", 1.0), ("ema", -0.1), ("micro_batch", 0), ("batch_norm", "joined")],
        *[("warmup_steps", -1), ("weight_decay", -0.1), ("beta1", 1.5), ("beta2", -0.1), ("final_lr_share", 2.0)],
        *[("beta1", 1.0), ("beta2", 1.0), ("steps", 2.5), ("steps", True), ("micro_batch", [3])],
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(name, value):
    with pytest.raises(SpecError, match=name):
        TrainSettings(**{name: value})
