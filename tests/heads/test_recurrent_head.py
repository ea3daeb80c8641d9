"""The head that hears what came first."""

from __future__ import annotations

import torch

from clapkit.heads.recurrent import RecurrentHead


def lively_head() -> RecurrentHead:
    torch.manual_seed(0)
    return RecurrentHead(6, 4, hidden=5).eval()


@torch.no_grad()
def test_is_a_linear_map_of_mean_maximum_and_course():
    head, frames = lively_head(), torch.randn(1, 7, 6)
    course = head.course(frames, torch.ones(1, 7, dtype=torch.bool))
    wanted = torch.cat([frames.mean(1), frames.amax(1), course], dim=1) @ head.projection.linear.weight.T
    found = head(frames, torch.ones(1, 7, dtype=torch.bool))
    torch.testing.assert_close(found, wanted + head.projection.linear.bias, rtol=0, atol=1e-5)
    assert (head.reads, head.width, found.shape) == ("frames", 4, (1, 4))


@torch.no_grad()
def test_two_halves_exchanged_are_another_sound_though_their_mean_is_the_same():
    head, frames, mask = lively_head(), torch.randn(1, 8, 6), torch.ones(1, 8, dtype=torch.bool)
    turned = torch.cat([frames[:, 4:], frames[:, :4]], dim=1)
    assert (head(turned, mask) - head(frames, mask)).abs().max() > 1e-2


@torch.no_grad()
def test_a_clip_does_not_depend_on_what_it_is_padded_with():
    head, frames = lively_head(), torch.randn(1, 5, 6)
    padded = torch.cat([frames, torch.full((1, 3, 6), 7.0)], dim=1)
    alone = head(frames, torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(head(padded, torch.arange(8)[None] < 5), alone, rtol=0, atol=1e-6)
