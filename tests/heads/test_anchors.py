"""The anchored projection against a plain loop, and its limits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.heads.anchors import AnchoredLinear


def head_with_anchors(count: int = 7, **settings) -> AnchoredLinear:
    torch.manual_seed(3)
    head = AnchoredLinear(5, 4, **settings)
    head.place(F.normalize(torch.randn(count, 4), dim=-1))
    return head.eval()


@torch.no_grad()
def test_equals_a_loop_over_anchors():
    head, x = head_with_anchors(sharpness=9.0, blend=0.4), torch.randn(3, 5)
    for row, out in zip(x, head(x), strict=True):
        z = head.projection(row)
        z = z / z.norm()
        weights = [float(torch.exp(9.0 * (z @ anchor))) for anchor in head.anchors_KD]
        slow = sum(w * anchor for w, anchor in zip(weights, head.anchors_KD, strict=True)) / sum(weights)
        assert torch.allclose(out, 0.6 * z + 0.4 * slow / slow.norm(), atol=1e-6)


def test_without_anchors_and_in_training_it_is_the_linear_map():
    x = torch.randn(2, 5)
    bare = AnchoredLinear(5, 4).eval()
    assert torch.equal(bare(x), bare.projection(x))
    head = head_with_anchors().train()
    assert torch.equal(head(x), head.projection(x))
    unblended = head_with_anchors(blend=0.0)
    assert torch.allclose(unblended(x), F.normalize(unblended.projection(x), dim=-1))


def test_very_sharp_gives_the_nearest_anchor_and_very_flat_their_mean():
    x = torch.randn(6, 5)
    sharp = head_with_anchors(sharpness=1e6, blend=1.0)
    nearest = (F.normalize(sharp.projection(x), dim=-1) @ sharp.anchors_KD.T).argmax(1)
    assert torch.allclose(sharp(x), sharp.anchors_KD[nearest], atol=1e-6)
    flat = head_with_anchors(sharpness=1e-9, blend=1.0)
    assert torch.allclose(flat(x), F.normalize(flat.anchors_KD.mean(0), dim=-1).expand(6, 4), atol=1e-6)


def test_works_on_frames_and_moves_with_the_module_to_float64():
    head = head_with_anchors()
    frames = torch.randn(2, 3, 5)
    assert head(frames).shape == (2, 3, 4)
    assert torch.allclose(head(frames)[1, 2], head(frames[1, 2]), atol=1e-6)


def test_more_anchors_than_wanted_are_thinned_evenly():
    head = AnchoredLinear(5, 4)
    many = F.normalize(torch.randn(101, 4), dim=-1)
    head.place(many, most=11)
    assert torch.equal(head.anchors_KD, many[::10])


def test_its_spec_builds_a_head_that_the_weights_fit():
    head = head_with_anchors(sharpness=12.0)
    again = head.spec().build(in_width=5, out_width=4)
    again.load_state_dict(head.state_dict())
    x = torch.randn(2, 5)
    assert again.sharpness == 12.0
    assert torch.equal(again.eval()(x), head(x))


@pytest.mark.parametrize("wrong", [{"anchors": -1}, {"sharpness": 0.0}, {"sharpness": -2.0}, {"blend": 1.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SpecError, match=str(next(iter(wrong.values())))):
        AnchoredLinear(5, 4, **wrong)


def test_anchors_are_added_beside_those_that_stand_each_once():
    head = head_with_anchors()
    first = head.anchors_KD.clone()
    head.add(first[:2])
    assert torch.equal(head.anchors_KD, first)
    new = F.normalize(torch.randn(3, first.shape[1]), dim=-1)
    head.add(torch.cat([new, first[:1]]))
    assert torch.equal(head.anchors_KD, torch.cat([first, new]))
    empty = AnchoredLinear(5, first.shape[1])
    empty.add(new)
    assert torch.equal(empty.anchors_KD, new)
