"""The head over single frames against its formulas written out, and in the limits where they are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.heads.framewise import FramewiseHead, TextTerms, flam, frame_cosines, tiny


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


@pytest.fixture
def case():
    torch.manual_seed(0)
    head = tiny.build().double()
    cosine = torch.rand(2, 3, 5, dtype=torch.float64) * 2 - 1
    return head, cosine, head(torch.randn(3, 32, dtype=torch.float64))


@torch.no_grad()
def test_scores_are_the_published_formulas(case):
    head, cosine, terms = case
    head.log_scale.fill_(0.25)
    assert (terms.scale_C > 0).all()
    for b, c, t in np.ndindex(2, 3, 5):
        scale, bias = float(terms.scale_C[c]) * math.exp(0.25), float(terms.bias_C[c])
        p = sigmoid(scale * float(cosine[b, c, t]) + bias)
        wanted = {"kept": p, "removed": p / (p + sigmoid(bias)), "ignored": sigmoid(scale * float(cosine[b, c, t]))}
        for prior, score in wanted.items():
            assert float(head.scores(cosine, terms, prior=prior)[b, c, t]) == pytest.approx(score, rel=1e-12), prior
        assert float(head.logits(cosine, terms)[b, c, t]) == pytest.approx(math.log(p / (1 - p)), rel=1e-9)
    assert torch.equal(head.scores(cosine, terms), head.scores(cosine, terms, prior="removed"))


@torch.no_grad()
def test_terms_of_a_text(case):
    head, _, _ = case
    text = torch.randn(32, dtype=torch.float64)

    def through(part):
        return part.linear2.weight[0] @ F.gelu(part.linear1.weight @ text + part.linear1.bias) + part.linear2.bias[0]

    terms = head(text[None])
    assert terms.bias_C.shape == terms.scale_C.shape == (1,), "one text alone keeps its axis"
    torch.testing.assert_close(terms.bias_C[0], through(head.bias))
    torch.testing.assert_close(terms.scale_C[0], through(head.scale).exp())


def test_a_frame_that_says_nothing_scores_a_half_for_rare_and_common_texts():
    head = tiny.build()
    terms = TextTerms(torch.full((4,), 10.0), torch.tensor([-60.0, -8.0, 0.0, 3.0]))
    assert head.scores(torch.zeros(1, 4, 1), terms).flatten().tolist() == pytest.approx([0.5] * 4)


def test_for_texts_hardly_ever_true_the_prior_may_be_ignored():
    head = tiny.build()
    terms = TextTerms(torch.tensor([10.0, 4.0]), torch.tensor([-60.0, -1e3]))
    cosine = torch.linspace(-1, 1, 9).expand(1, 2, 9)
    removed, ignored = head.scores(cosine, terms), head.scores(cosine, terms, prior="ignored")
    torch.testing.assert_close(removed, ignored)
    assert not torch.allclose(head.scores(cosine, TextTerms(terms.scale_C, torch.zeros(2))), ignored)


def test_frame_cosines():
    frames, texts = torch.randn(2, 7, 16), torch.randn(3, 16)
    found = frame_cosines(frames, texts)
    wanted = F.cosine_similarity(frames[:, None], texts[None, :, None], dim=-1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(frame_cosines(3 * frames, texts), found)


def test_where_training_starts():
    """Every text starts near the prior of one frame in 3000 and a scale of ten."""
    torch.manual_seed(0)
    terms = FramewiseHead(text_width=16)(torch.zeros(4, 16))
    assert terms.bias_C.tolist() == pytest.approx([-8.0] * 4) and terms.scale_C.tolist() == pytest.approx([10.0] * 4)


def test_gradients_reach_every_parameter_and_no_constant(case):
    head, cosine, _ = case
    terms = head(torch.randn(3, 32, dtype=torch.float64))
    head.logits(cosine, terms).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in head.parameters())
    assert "log_scale" in head.state_dict() and "log_scale" not in dict(head.named_parameters())


def test_extreme_logits_stay_finite():
    head = tiny.build()
    terms = TextTerms(torch.tensor([1e4]), torch.tensor([-200.0]))
    cosine = torch.tensor([[[-1.0, 0.0, 1.0]]], requires_grad=True)
    scores = head.scores(cosine, terms)
    scores.sum().backward()
    assert scores.flatten().tolist() == pytest.approx([0.0, 0.5, 1.0]) and cosine.grad.isfinite().all()


def test_an_unknown_prior_is_refused(case):
    head, cosine, terms = case
    with pytest.raises(SpecError, match=r"'remove'.*did you mean 'removed'"):
        head.scores(cosine, terms, prior="remove")


def test_the_published_size():
    with torch.device("meta"):
        counted = sum(p.numel() for p in flam.build().parameters())
    assert counted == 2 * (768 * 768 + 768 + 768 + 1)
