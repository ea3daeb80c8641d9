"""Linear layers of a training step as convolutions: the same product and gradient, where it pays and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clapkit.nets import products
from clapkit.nets.products import linear_by_convolution, quick_products

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(96, 5), (4, 70, 5), (2, 3, 40, 5)])
@pytest.mark.parametrize("biased", [True, False])
def test_the_same_values_and_gradients_as_a_linear_layer(shape, biased):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    given = [x, weight, torch.randn(7, dtype=torch.float64)][: 2 + biased]
    found = []
    for product in (F.linear, linear_by_convolution):
        leaves = [value.clone().requires_grad_() for value in given]
        made = product(*leaves)
        made.square().sum().backward()
        found.append([made.detach(), *(leaf.grad for leaf in leaves)])
    for expected, got in zip(*found, strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_rows_in_any_memory_order_are_read_right():
    x, weight = torch.randn(6, 80, 5).transpose(0, 1), torch.randn(7, 5)
    torch.testing.assert_close(linear_by_convolution(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


@pytest.fixture
def taken(monkeypatch):
    """The shapes of the inputs that went the other way."""
    shapes = []

    def counted(x, *rest):
        shapes.append(tuple(x.shape))
        return linear_by_convolution(x, *rest)

    monkeypatch.setattr(products, "linear_by_convolution", counted)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    return shapes


def test_layers_that_learn_in_float32_go_the_other_way(taken):
    layer, x = nn.Linear(5, 7), torch.randn(2, 64, 5)
    with quick_products(CPU):
        made = layer(x)
    assert taken == [(2, 64, 5)]
    torch.testing.assert_close(made, layer(x))
    assert len(taken) == 1  # outside, everything is as it was


def test_nothing_else_does(taken):
    layer, wide = nn.Linear(5, 7), nn.Linear(5, 7).double()
    x = torch.randn(2, 64, 5)
    with quick_products(CPU):
        layer(x[0, :8])  # few rows
        wide(x.double())
        with torch.no_grad():
            layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        nn.Linear(5, 7).requires_grad_(False)(x)
    assert taken == []


def test_without_one_of_the_two_libraries_nothing_changes(monkeypatch):
    for which in (torch.backends.mkl, torch.backends.mkldnn):
        with monkeypatch.context() as patched:
            patched.setattr(which, "is_available", lambda: False)
            assert not isinstance(quick_products(CPU), torch.overrides.TorchFunctionMode)
    assert not isinstance(quick_products(torch.device("cuda")), torch.overrides.TorchFunctionMode)
