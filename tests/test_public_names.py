"""The public surface is a list, and the list is this one."""

from __future__ import annotations

import pytest

import clapkit

PUBLIC = [
    "AudioError",
    "AudioErrors",
    "Clap",
    "ClapkitError",
    "Clip",
    "DualEncoder",
    "Hit",
    "Index",
    "Recipe",
    "Spec",
    "__version__",
    "decode",
    "load",
    "spec",
    "train",
]


def test_the_list_of_public_names():
    assert sorted(clapkit.__all__) == PUBLIC
    assert sorted(dir(clapkit)) == PUBLIC


def test_every_public_name_resolves_and_is_documented():
    for name in PUBLIC:
        value = getattr(clapkit, name)
        if name != "__version__":
            assert value.__doc__, f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="laod"):
        _ = clapkit.laod
