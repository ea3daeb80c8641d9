"""The token that listens to all frames."""

from __future__ import annotations

import pytest
import torch

from clapkit.errors import SpecError
from clapkit.heads.semantic import SemanticToken


def lively_head(**settings) -> SemanticToken:
    torch.manual_seed(0)
    head = SemanticToken(12, 12, **settings).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return head


@torch.no_grad()
@pytest.mark.parametrize(("depth", "heads", "hidden"), [(1, 1, None), (2, 3, 20)])
def test_equals_the_token_in_front_of_the_frames(depth, heads, hidden):
    head = lively_head(depth=depth, heads=heads, hidden=hidden)
    frames = torch.randn(3, 6, 12)
    lengths = [6, 2, 0]
    found = head(frames, torch.arange(6) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        tokens = torch.cat([head.token[None], frames[row, :length]])[None]
        for block in head.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(found[row], head.norm(tokens[0, 0]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_order_of_frames_does_not_matter():
    head, frames, mask = lively_head(), torch.randn(1, 6, 12), torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(head(frames, mask), head(frames.flip(1), mask), rtol=0, atol=1e-5)


def test_gradients_reach_every_parameter():
    head = lively_head()
    loss = head(torch.randn(2, 4, 12), torch.ones(2, 4, dtype=torch.bool)) * torch.randn(2, 12)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_it_reads_frames_and_keeps_the_width():
    assert SemanticToken.reads == "frames"
    with pytest.raises(SpecError, match="width 12 into 8"):
        SemanticToken(12, 8)
