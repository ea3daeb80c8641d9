"""Parts named before they are built, and the JSON that names them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from clapkit.data.texts import TextChoice
from clapkit.errors import SpecError
from clapkit.heads.projection import MLP, Linear
from clapkit.model import DualEncoder
from clapkit.spec import Spec, derive, from_json, part_name, spec, to_json, with_defaults
from clapkit.towers.pretrained import pretrained_text


@dataclass(frozen=True)
class Named:
    kind: str = "x"


def through_json(value, **options):
    return from_json(json.loads(json.dumps(to_json(value))), **options)


def test_building_calls_the_class_with_its_arguments_and_more():
    built = spec(MLP, hidden_width=8, activation="gelu").build(in_width=4, out_width=2)
    assert isinstance(built, MLP) and built.linear1.out_features == 8 and built.width == 2


def test_an_unknown_parameter_is_told_with_the_nearest_name():
    with pytest.raises(SpecError, match="MLP has no parameter 'hiden_width'; did you mean 'hidden_width'"):
        spec(MLP, hiden_width=8)
    with pytest.raises(SpecError, match="Linear has no parameter 'out'"):
        spec(Linear).build(out=3)


@pytest.mark.parametrize("width", [0, -3])
def test_what_cannot_be_built_is_told_with_its_part(width):
    with pytest.raises(SpecError, match=f"hidden_width={width}.* cannot be built, given .*'in_width': 4"):
        spec(MLP, hidden_width=width).build(in_width=4, out_width=2)


def test_derive_replaces_and_keeps():
    base = spec(MLP, hidden_width=8, activation="gelu")
    assert derive(base, hidden_width=16).arguments == {"hidden_width": 16, "activation": "gelu"}
    assert base.arguments["hidden_width"] == 8, "the base is unchanged"
    with pytest.raises(SpecError, match="no parameter 'widht'"):
        derive(base, widht=3)


def test_defaults_can_be_written_out():
    whole = with_defaults(spec(DualEncoder, audio_head=spec(Linear, bias=False), text_head=spec(MLP)))
    assert whole.arguments["dimension"] == 384 and "frontend" not in whole.arguments, "it has no default"
    assert whole.arguments["audio_head"].arguments == {"bias": False}
    assert whole.arguments["text_head"].arguments == {"hidden_width": None, "activation": "relu"}
    assert with_defaults(whole) == whole
    assert with_defaults(spec(MLP), leave=("activation",)).arguments == {"hidden_width": None}


def test_equal_specs_are_equal_whatever_the_order():
    a, b = spec(MLP, hidden_width=8, activation="gelu"), spec(MLP, activation="gelu", hidden_width=8)
    assert a == b and hash(a) == hash(b) and a != derive(a, hidden_width=9)
    assert len({spec(MLP, hidden_width=[1]), spec(MLP, hidden_width=[1])}) == 1, "values without a hash are no obstacle"


def test_the_repr_is_what_was_written():
    assert repr(spec(MLP, hidden_width=8)) == "MLP(hidden_width=8)"


def test_json_round_trip_of_nested_parts():
    whole = spec(DualEncoder, audio=spec(Linear, bias=False), text=spec(pretrained_text), dimension=3)
    assert through_json(whole) == whole
    assert through_json(TextChoice(bank=3)) == TextChoice(bank=3)
    assert through_json({"a": (1, None, True, "x", 0.1)}) == {"a": (1, None, True, "x", 0.1)}


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(SpecError, match="a value of type set cannot be written"):
        to_json({"a": {1, 2}})
    with pytest.raises(SpecError, match="the name 'kind' is taken"):
        to_json(Named())
    with pytest.raises(SpecError, match="the name 'part' is taken"):
        to_json(Spec("clapkit.heads.projection:Linear", {"part": 1}))
    with pytest.raises(SpecError, match="a mapping with the key 'part'"):
        to_json({"part": "clapkit.data.texts:TextChoice"})


def test_parts_inside_functions_have_no_name():
    class Inner:
        pass

    with pytest.raises(SpecError, match="Inner is not at module level"):
        part_name(Inner)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"part": 3}, "a part is named 'module:Name', not 3"),
        ({"part": "clapkit.data.texts"}, "a part is named 'module:Name'"),
        ({"part": "clapkit.data.texts:TextChoise"}, "has no part 'TextChoise'; did you mean 'TextChoice'"),
        ({"part": "clapkit.data.nothing:X"}, "cannot import 'clapkit.data.nothing'"),
        ({"part": "clapkit.data.texts:TextChoice", "bnak": 3}, "TextChoice has no parameter 'bnak'.*'bank'"),
        ({"part": "clapkit.heads.projection:Linear"}, "is not a configurable part"),
        ({"part": "clapkit.data.texts:TextChoice", "bank": -1}, "bank is a number of texts, not -1"),
    ],
)
def test_files_that_name_nonsense_are_refused(data, message):
    with pytest.raises(SpecError, match=message):
        from_json(data)


@pytest.mark.parametrize("name", ["clapkit:import_module", "clapkit.spec:importlib", "clapkit.native:save_file"])
def test_a_file_reaches_nothing_that_a_module_only_imports(name):
    with pytest.raises(SpecError, match="has no part"):
        Spec(name, {}).resolve()


@pytest.fixture
def stranger(tmp_path, monkeypatch) -> Path:
    """A package that leaves a file when it is imported."""
    mark = tmp_path / "was_imported"
    code = [
        "import pathlib, dataclasses",
        f"pathlib.Path({str(mark)!r}).touch()",
        "@dataclasses.dataclass(frozen=True)",
        "class Part:",
        "    x: int = 1",
    ]
    (tmp_path / "stranger_parts.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("stranger_parts", None)


@pytest.mark.parametrize("more", [{}, {"kind": "spec"}], ids=["part", "spec"])
def test_another_package_is_imported_only_when_trusted(stranger, more):
    data = {"model": [{"part": "stranger_parts:Part", "x": 2, **more}]}
    with pytest.raises(SpecError, match=r"package 'stranger_parts'.*trust=\['stranger_parts'\]"):
        from_json(data)
    assert not stranger.exists(), "nothing was imported"
    part = from_json(data, trust=("stranger_parts",))["model"][0]
    assert (part.build() if more else part).x == 2 and stranger.exists()
