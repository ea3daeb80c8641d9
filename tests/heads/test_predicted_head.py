"""A head with a predictor behind it: what it computes, and that its Spec builds it again."""

from __future__ import annotations

import json

import torch
from torch.nn import functional as F

from clapkit.heads.predicted import PredictedHead, Predictor
from clapkit.heads.projection import MLP, Linear
from clapkit.spec import from_json, spec, to_json


def made(seed: int = 0) -> PredictedHead:
    torch.manual_seed(seed)
    head = PredictedHead(6, 4, head=spec(MLP, hidden_width=5), hidden_width=7)
    torch.nn.init.normal_(head.predictor.network[-1].linear.weight)
    return head


def test_it_is_the_predictor_after_the_unit_vector_of_the_head():
    head, x_BD = made(), torch.randn(3, 6)
    for out_D, x_D in zip(head(x_BD), x_BD, strict=True):
        z_D = head.head(x_D) / head.head(x_D).norm()
        torch.testing.assert_close(out_D, z_D + head.predictor.network(z_D))
    frames_BTD = torch.randn(2, 5, 6)
    torch.testing.assert_close(head(frames_BTD)[1, 3], head(frames_BTD[1, 3]))


def test_a_fresh_predictor_changes_no_direction():
    head = PredictedHead(6, 4, head=spec(Linear))
    x_BD = torch.randn(3, 6)
    torch.testing.assert_close(head(x_BD), F.normalize(head.head(x_BD), dim=-1))


def test_parts_that_are_there_make_the_same_head_and_its_spec_builds_it_again():
    built = made()
    around = PredictedHead.around(
        built.head, built.predictor, head_spec=spec(MLP, hidden_width=5), hidden_width=7
    ).eval()
    assert isinstance(around.predictor, Predictor) and around.reads == "summary"
    assert around.spec() == built.spec()
    again = from_json(json.loads(json.dumps(to_json(around.spec())))).build(in_width=6, out_width=4)
    again.load_state_dict(around.state_dict())
    x_BD = torch.randn(3, 6)
    assert torch.equal(again(x_BD), built(x_BD)) and torch.equal(around(x_BD), built(x_BD))
