"""Views on mel frames: what is covered, and what a stretch leaves where it was."""

from __future__ import annotations

import numpy as np
import pytest

from clapkit.data.clip import Clip
from clapkit.errors import SpecError
from clapkit.views.spectrogram import PatchMask, SpecAugment, Stretch

MEL_TF = np.random.default_rng(2).standard_normal((200, 40)).astype(np.float32)
CLIP = Clip("c", np.zeros(1, np.float32))


def test_stripes_cover_exactly_what_was_drawn_with_the_mean():
    params = {"time": [[0.1, 0.05], [0.5, 0.1]], "frequency": [[0.25, 0.1]]}
    covered = SpecAugment().apply(MEL_TF, params, {})
    mask = np.zeros_like(MEL_TF, bool)
    mask[20:30] = mask[100:120] = True
    mask[:, 10:14] = True
    np.testing.assert_array_equal(covered[~mask], MEL_TF[~mask])
    np.testing.assert_array_equal(covered[mask], np.full(mask.sum(), MEL_TF.mean()))


def test_stripes_lie_inside_and_keep_to_their_share(rng):
    view = SpecAugment(time_stripes=3, time_share=0.2, frequency_stripes=1, frequency_share=0.1)
    for _ in range(200):
        params = view.draw(rng, CLIP, ())
        assert len(params["time"]) == 3 and len(params["frequency"]) == 1
        assert all(start >= 0 and start + width <= 1 and width <= 0.2 for start, width in params["time"])
        changed = view.apply(MEL_TF, params, {}) != MEL_TF
        assert changed.all(axis=1).sum() <= 3 * 0.2 * 200 + 3


def test_no_stripes_change_nothing(rng):
    view = SpecAugment(time_stripes=0, frequency_stripes=0)
    np.testing.assert_array_equal(view.apply(MEL_TF, view.draw(rng, CLIP, ()), {}), MEL_TF)


def test_a_stretch_by_one_and_no_bins_is_the_identity():
    np.testing.assert_array_equal(Stretch().apply(MEL_TF, {"time": 1.0, "bins": 0}, {}), MEL_TF)


@pytest.mark.parametrize("factor", [0.8, 1.1, 1.25])
def test_a_ramp_is_stretched_to_a_steeper_or_flatter_ramp(factor):
    ramp_TF = np.arange(100, dtype=np.float32)[:, None].repeat(4, 1)
    expected = (np.arange(100) * factor) % 99  # squeezed: continued by its own start
    np.testing.assert_allclose(Stretch().apply(ramp_TF, {"time": factor, "bins": 0}, {})[:, 0], expected, atol=1e-3)


@pytest.mark.parametrize("bins", [2, -3])
def test_bins_move_and_the_edge_is_repeated(bins):
    moved = Stretch().apply(MEL_TF, {"time": 1.0, "bins": bins}, {})
    for f in range(40):
        np.testing.assert_array_equal(moved[:, f], MEL_TF[:, min(max(f - bins, 0), 39)])


def test_factors_keep_to_their_range(rng):
    drawn = [Stretch(log_time=0.1, bins=2, p=0.9).draw(rng, CLIP, ()) for _ in range(400)]
    assert np.exp(-0.1) <= min(p["time"] for p in drawn) < 0.92 < 1.09 < max(p["time"] for p in drawn) <= np.exp(0.1)
    assert {p["bins"] for p in drawn} == {-2, -1, 0, 1, 2}
    assert Stretch(p=0.0).draw(rng, CLIP, ()) == {"time": 1.0, "bins": 0}


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(SpecError, match="time_share is a share between 0 and 1, not 2"):
        SpecAugment(time_share=2.0)
    with pytest.raises(SpecError, match="p is a probability between 0 and 1, not 7"):
        Stretch(p=7)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_patches_cover_their_share_whole_or_not_at_all(share):
    view = PatchMask(share=share, frames=20, bins=8)
    changed = view.apply(MEL_TF, {"seed": 4}, {}) != MEL_TF
    patches = changed.reshape(10, 20, 5, 8).transpose(0, 2, 1, 3).reshape(50, 160)
    assert all(p.all() or not p.any() for p in patches)
    assert patches.all(axis=1).sum() == round(share * 50)
    np.testing.assert_array_equal(view.apply(MEL_TF, {"seed": 4}, {})[changed], np.full(changed.sum(), MEL_TF.mean()))


def test_patches_are_cut_at_the_edges_and_vary_with_the_seed():
    view = PatchMask(share=0.5, frames=150, bins=30)
    covered = [view.apply(MEL_TF, {"seed": seed}, {}) != MEL_TF for seed in range(40)]
    assert len({c.tobytes() for c in covered}) == 6, "2 of 4 patches"
    assert all(c[:150, :30].all() or not c[:150, :30].any() for c in covered)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"share": 1.1}, "share is a share between 0 and 1, not 1.1"), ({"bins": 0}, "bins is the size of a patch")],
)
def test_patches_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(SpecError, match=message):
        PatchMask(**wrong)
