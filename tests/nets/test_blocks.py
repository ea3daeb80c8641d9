"""Blocks of transformers, found in towers of many kinds, and computed twice to save memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clapkit.audio.features import Features
from clapkit.nets.blocks import recomputed, transformer_blocks
from clapkit.nets.products import quick_products
from clapkit.towers import hf, htsat, resnet, vit

NAMES = {
    "vit": (vit.tiny, ["blocks.0", "blocks.1"]),
    "htsat": (htsat.tiny, ["stages.0.blocks.0", "stages.0.blocks.1", "stages.1.blocks.0", "stages.1.blocks.1"]),
    "hf": (hf.tiny, ["encoder.encoder.layer.0", "encoder.encoder.layer.1"]),
    "resnet": (resnet.tiny, []),
}


@pytest.mark.parametrize("kind", NAMES)
def test_blocks_by_name(kind):
    tower, names = NAMES[kind]
    assert list(transformer_blocks(tower.build())) == names


def test_a_block_is_no_linear_layer_and_no_convolution():
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(2, 2)))
    assert transformer_blocks(mixed) == {}


def loss_of(kind, tower):
    """A number that depends on every frame, and the same input at every call."""
    torch.manual_seed(1)
    if kind == "hf":
        ids_BL = torch.randint(0, 200, (6, 40))
        out = tower(ids_BL, torch.ones(6, 40, dtype=torch.bool))
    else:
        values_BTF = torch.randn(6, 128, 64) * 20 - 30
        out = tower(Features(values_BTF, torch.ones(6, 128, dtype=torch.bool)))
    return out.frames_BTD.square().sum() + out.summary_BD.sum()


def gradients(kind, tower, *, wanted):
    """Gradients by name, and the bytes that were kept for them."""
    tower.zero_grad(set_to_none=True)
    own = {p.untyped_storage().data_ptr() for p in (*tower.parameters(), *tower.buffers())}
    kept = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    torch.manual_seed(7)
    with recomputed(tower, wanted=wanted):
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = loss_of(kind, tower)
        held = sum(size for size, _ in kept.values())
        kept.clear()
        loss.backward()
    return {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}, held


@pytest.mark.parametrize("kind", ["vit", "htsat", "hf"])
def test_the_gradient_is_the_same_in_less_memory(kind):
    """With dropout (that of the language model), and statistics of the batch in front of the blocks."""
    torch.manual_seed(0)
    tower = NAMES[kind][0].build().train()
    plain, all_bytes = gradients(kind, copy.deepcopy(tower), wanted=False)
    twice, few_bytes = gradients(kind, tower, wanted=True)
    assert plain.keys() == twice.keys() and plain
    for name, gradient in plain.items():
        assert torch.equal(gradient, twice[name]), name
    assert few_bytes < 0.6 * all_bytes
    assert not any("forward" in vars(block) for block in transformer_blocks(tower).values())


def test_an_error_inside_leaves_the_tower_as_it_was():
    tower = NAMES["vit"][0].build()
    with pytest.raises(ZeroDivisionError), recomputed(tower):
        raise ZeroDivisionError
    assert not any("forward" in vars(block) for block in transformer_blocks(tower).values())


def test_recomputed_under_quick_products_is_the_same_gradient():
    """Linear layers with enough rows take another way there, also when they are computed again."""
    torch.manual_seed(0)
    tower = vit.PatchTransformer(width=16, depth=2, heads=2, expansion=2)
    features = Features(torch.randn(4, 256, 64), torch.ones(4, 256, dtype=torch.bool))  # 256 tokens, 64 rows pay
    made = []
    for wanted in (False, True):
        tower.zero_grad()
        with quick_products(torch.device("cpu")), recomputed(tower, wanted=wanted):
            tower(features).summary_BD.square().sum().backward()
        made.append([p.grad.clone() for p in tower.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
