"""The stretched text side against a slow definition, and its limits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clapkit.errors import SpecError
from clapkit.heads.emphasis import TextEmphasis


def texts(count: int = 40, width: int = 6) -> torch.Tensor:
    torch.manual_seed(8)
    return F.normalize(torch.randn(count, width) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1]), dim=-1)


def test_it_is_the_identity_until_placed_and_with_power_zero():
    x = torch.randn(3, 6)
    assert torch.equal(TextEmphasis(6, 6)(x), x)
    flat = TextEmphasis(6, 6, power=0.0)
    flat.place(texts())
    assert torch.allclose(flat(x), x, atol=1e-6)


def test_power_one_is_the_second_moment_itself():
    head, x = TextEmphasis(6, 6, power=1.0), torch.randn(3, 6)
    head.place(texts())
    moment = sum(torch.outer(t, t) for t in texts()) / len(texts())
    assert torch.allclose(head(x), x @ moment, atol=1e-6)


def test_two_quarters_make_a_half_and_four_make_the_whole():
    quarter = TextEmphasis(6, 6, power=0.25)
    quarter.place(texts())
    half = TextEmphasis(6, 6, power=0.5)
    half.place(texts())
    m = quarter.matrix_DD
    assert torch.allclose(m @ m, half.matrix_DD, atol=1e-6)
    assert torch.allclose(m @ m @ m @ m, texts().T @ texts() / len(texts()), atol=1e-6)


def test_directions_that_texts_use_gain_on_the_others():
    head = TextEmphasis(6, 6)
    head.place(texts())
    gains = torch.linalg.norm(head(torch.eye(6)), dim=-1)
    assert gains[0] > 1.5 * gains[-1]


def test_its_spec_builds_a_head_that_the_weights_fit():
    head = TextEmphasis(6, 6, power=0.4)
    head.place(texts())
    again = head.spec().build(in_width=6, out_width=6)
    again.load_state_dict(head.state_dict())
    x = torch.randn(2, 6)
    assert again.power == 0.4
    assert torch.equal(again(x), head(x))


@pytest.mark.parametrize(("arguments", "named"), [((6, 8), "6"), ((6, 6, -0.1), "-0.1"), ((6, 6, 3.0), "3.0")])
def test_impossible_settings_are_refused(arguments, named):
    in_width, out_width, *power = arguments
    with pytest.raises(SpecError, match=named):
        TextEmphasis(in_width, out_width, **({"power": power[0]} if power else {}))
