"""A tensor that is missing, or has another shape, is named as the file names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shrunk import shrunk

import clapkit
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.load import recognise
from clapkit.checkpoints.rules import Computed, Drop, Merge, Rename, Split, names_of, to_ours, transposed
from clapkit.errors import CheckpointError

LAYOUTS = {
    "laion_clap_htsat_tiny_fusion": ("audio_branch", "text_branch", "logit", "audio_projection", "text_projection"),
    "msclap_2022_cnn14_bert": ("audio_encoder", "caption_encoder", "logit"),
    "open_clip_clap_htsat_tiny_roberta_base": ("audio", "text", "logit"),
}


def few_of(tensors: dict[str, torch.Tensor]) -> list[str]:
    """One name of each kind: numbers of layers aside, and of what no model needs."""
    spared = ("tscam_conv", "branch.head", "encoder.head", "fc_audioset", "base.pooler", "logit_scale_t", "num_batches")
    kinds: dict[str, str] = {}
    for name in tensors:
        if not any(part in name for part in spared):
            kinds[".".join("#" if part.isdigit() else part for part in name.split("."))] = name
    return list(kinds.values())


def refusal(tensors: dict[str, torch.Tensor], monkeypatch) -> str:
    from clapkit.checkpoints import load

    monkeypatch.setattr(load, "read", lambda path, variant=None: Foreign(tensors, path=Path("file.pt")))
    monkeypatch.setattr(load, "is_native", lambda path: False)
    with pytest.raises(CheckpointError) as error:
        load.read_model("file.pt")
    return str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_tensor_is_named(shared_oracles, monkeypatch, layout):
    whole = shrunk(shared_oracles / layout, only=LAYOUTS[layout])
    whole = {n: x for n, x in whole.items() if not any(f"encoder.layer.{i}." in n for i in range(2, 12))}
    for name in few_of(whole)[::4]:
        assert name in refusal({n: x for n, x in whole.items() if n != name}, monkeypatch), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_of_another_shape_is_named(shared_oracles, monkeypatch, layout):
    whole = shrunk(shared_oracles / layout, only=LAYOUTS[layout])
    whole = {n: x for n, x in whole.items() if not any(f"encoder.layer.{i}." in n for i in range(2, 12))}
    for name in few_of(whole)[2::6]:
        assert name in refusal({**whole, name: whole[name][..., None]}, monkeypatch), name


def test_the_last_block_lacks_the_tensor_by_which_blocks_are_counted(shared_oracles, monkeypatch):
    whole = shrunk(shared_oracles / "laion_clap_htsat_tiny_fusion")
    name = "text_branch.encoder.layer.11.output.dense.weight"
    assert f"missing: {name} (text.encoder.encoder.layer.11" in refusal(
        {n: x for n, x in whole.items() if n != name}, monkeypatch
    )


def test_every_family_that_almost_fits_is_told(shared_oracles):
    whole = shrunk(shared_oracles / "openflam_v1_base")
    del whole["fc_per_text_logit_bias.0.weight"]
    with pytest.raises(CheckpointError, match=r"as laion: missing: logit_scale_t.* as flam: missing: fc_per_text"):
        recognise(Foreign(whole))


RULES = (
    Computed("table", "computed"),
    Drop("old.{rest*}", "dropped"),
    Merge(("{i}.q.{p}", "{i}.k.{p}"), "blocks.{i}.both.{p}"),
    Split("joined", ("first", "second")),
    transposed("turned", "matrix"),
    Rename("encoder.{rest*}", "text.{rest*}"),
    Rename("{rest*}", "other.{rest*}"),
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("blocks.3.both.weight", ("3.q.weight", "3.k.weight")),
        ("second", ("joined",)),
        ("matrix", ("turned",)),
        ("text.a.b", ("encoder.a.b",)),
        ("other.table", ()),  # a file's "table" is not read
        ("nowhere", ()),
    ],
)
def test_our_names_in_words_of_the_file(ours, theirs):
    assert names_of(ours, RULES) == theirs


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"turned": torch.zeros(3)}, r"turned \[3\] has not the axes"),
        ({"1.q.w": torch.zeros(2, 3), "1.k.w": torch.zeros(2, 4)}, r"1.q.w \[2, 3\], 1.k.w \[2, 4\] cannot be joined"),
        ({"1.q.w": torch.zeros(()), "1.k.w": torch.zeros(())}, r"1.q.w \[\], 1.k.w \[\] cannot be joined"),
    ],
)
def test_shapes_that_no_rule_can_take(tensors: dict[str, Any], told):
    with pytest.raises(CheckpointError, match=told):
        to_ours(tensors, RULES)


def test_a_variant_that_says_nothing_is_noted(shared_oracles, tmp_path):
    torch.save(shrunk(shared_oracles / "msclap_clapcap_2023"), tmp_path / "m.pt")
    notes = clapkit.load(tmp_path / "m.pt", variant="2023").report.notes
    assert any("variant='2023' is not used" in note for note in notes)


def test_the_configuration_of_open_clip_goes_before_a_variant(shared_oracles, tmp_path):
    torch.save(shrunk(shared_oracles / "open_clip_clap_htsat_tiny"), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"audio_cfg": {"proj_act": "relu"}}}')
    notes = clapkit.load(tmp_path, variant="gelu").report.notes
    assert any("relu, as its configuration says; variant='gelu' is not used" in note for note in notes)


def test_the_tokenizer_of_open_clip_is_a_name(shared_oracles, tmp_path):
    layout = "open_clip_clap_htsat_tiny_roberta_base"
    torch.save(shrunk(shared_oracles / layout), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text('{"text_cfg": {"hf_tokenizer_name": ["../x"]}}')
    with pytest.raises(CheckpointError, match=r"names \['../x'\] as tokenizer"):
        clapkit.load(tmp_path)
