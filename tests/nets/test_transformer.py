"""The shared transformer block against torch's own layer, and rows of unequal length against each row alone."""

from __future__ import annotations

import pytest
import torch

from clapkit.errors import SpecError
from clapkit.nets.transformer import Block, attention_mask, initialise, run_blocks


def lively_block(**settings) -> Block:
    block = Block(12, heads=3, hidden=20, **settings).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return block


def torch_layer(block: Block) -> torch.nn.TransformerEncoderLayer:
    """The same weights in torch's encoder layer."""
    layer = torch.nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, block.activation, layer_norm_eps=block.norm1.eps, batch_first=True, norm_first=True
    )
    pairs = [(layer.self_attn.out_proj, block.out), (layer.linear1, block.rise), (layer.linear2, block.fall)]
    pairs += [(layer.norm1, block.norm1), (layer.norm2, block.norm2)]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.load_state_dict(ours.state_dict())
        layer.self_attn.in_proj_weight.copy_(block.query_key_value.weight)
        layer.self_attn.in_proj_bias.copy_(block.query_key_value.bias)
    return layer


@torch.no_grad()
@pytest.mark.parametrize(("activation", "eps"), [("gelu", 1e-6), ("relu", 1e-2)])
def test_a_block_equals_the_layer_of_torch(activation, eps):
    torch.manual_seed(0)
    block = lively_block(activation=activation, eps=eps)
    layer = torch_layer(block).train()  # its fast path of eval mode would not differ by more than rounding
    tokens = torch.randn(2, 6, 12)
    real = torch.tensor([[True] * 6, [True, False, True, True, False, False]])
    torch.testing.assert_close(block(tokens), layer(tokens), rtol=0, atol=1e-5)
    found = block(tokens, attention_mask(real))
    expected = layer(tokens, src_key_padding_mask=~real)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)


@torch.no_grad()
def test_every_row_goes_through_the_blocks_as_if_alone():
    torch.manual_seed(1)
    blocks = [lively_block(), lively_block()]
    tokens, lengths = torch.randn(6, 7, 12), [7, 3, 0, 7, 1, 3]
    found = run_blocks(blocks, tokens, torch.arange(7) < torch.tensor(lengths)[:, None])
    assert found.shape == tokens.shape and found.isfinite().all()
    for row, length in enumerate(lengths):
        alone = tokens[row : row + 1, :length]
        for block in blocks:
            alone = block(alone)
        torch.testing.assert_close(found[row : row + 1, :length], alone, rtol=0, atol=1e-5)
    nothing = run_blocks(blocks, tokens, torch.zeros(6, 7, dtype=torch.bool))
    assert torch.equal(nothing, torch.zeros_like(tokens))


def test_what_is_not_real_takes_no_part():
    torch.manual_seed(2)
    blocks = [lively_block()]
    tokens = torch.randn(2, 5, 12, requires_grad=True)
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    run_blocks(blocks, tokens, real)[real].square().sum().backward()
    assert not tokens.grad[~real].any() and tokens.grad[real].any()


def test_initialise_leaves_norms_neutral_and_biases_zero():
    block = lively_block().apply(initialise)
    assert torch.equal(block.norm1.weight, torch.ones(12)) and not block.norm2.bias.any()
    assert not block.query_key_value.bias.any() and 0 < block.out.weight.abs().max() < 1


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(SpecError, match="width=12 must be a multiple of heads=5"):
        Block(12, heads=5, hidden=8)
    with pytest.raises(SpecError, match="width=12 must be a multiple of heads=0"):
        Block(12, heads=0, hidden=8)
    with pytest.raises(SpecError, match=r"no activation 'gelo'.*'gelu'"):
        Block(12, heads=3, hidden=8, activation="gelo")
