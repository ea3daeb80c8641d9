"""The contract of every importer: it knows its own files, accounts for every tensor, and can be read backwards.

The layouts of the references are used at full size, with tensors that have a shape and no memory.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.rules import Change, Computed, Drop, to_ours, to_theirs
from clapkit.checkpoints.table import IMPORTERS
from clapkit.errors import CheckpointError

# oracle folder -> family that has to recognise it
LAYOUTS = {
    "laion_clap_htsat_tiny": "laion",
    "laion_clap_htsat_tiny_fusion": "laion",
    "laion_clap_htsat_base_music": "laion",
    "msclap_2022_cnn14_bert": "msclap",
    "msclap_2023_htsat_gpt2": "msclap",
    "msclap_clapcap_2023": "clapcap",
    "m2d_clap_2024_gte": "m2d",
    "m2d_clap_2025_bert": "m2d",
    "glap_dasheng_sonar": "glap",
    "tinyclap_phinet_a0.75_b0.75_t4_n6": "tinyclap",
    "tinyclap_phinet_a1.5_b0.75_t6_n7": "tinyclap",
    "wav2clip": "wav2clip",
    "open_clip_clap_htsat_tiny": "open_clip",
    "open_clip_clap_htsat_tiny_roberta_base": "open_clip",
    "open_clip_clap_htsat_tiny_roberta_base_fused": "open_clip",
    "openflam_v1_base": "flam",
    "beats_iter3": "beats",
    "beats_iter3_finetuned_as2m": "beats",
    "efficientat_mn10": "efficientat",
    "efficientat_mn04": "efficientat",
}
# Families whose layout no oracle has; their own tests build files of them.
WITHOUT_LAYOUT = {"panns", "transformers"}
COUNTERS = "num_batches_tracked"

every_layout = pytest.mark.parametrize("name", LAYOUTS)


@cache
def layout(folder: Path) -> dict:
    return json.loads((folder / "layout.json").read_text())


def foreign(folder: Path, *, computed: bool) -> Foreign:
    """The file of a layout: small tensors are zeros (an importer may read settings from them), others only shapes."""
    described = layout(folder)
    tensors = {}
    for entry in described["tensors"]:
        if entry["kind"] == "computed" and not computed:
            continue
        small = len(entry["shape"]) < 2
        tensors[entry["name"]] = torch.ones(entry["shape"], device="cpu" if small else "meta")
    config = described["config"]
    path = Path(config["folder_name"]) / "checkpoint-300.pth" if "folder_name" in config else Path("file.pt")
    return Foreign(tensors, config, path)


def importer_of(file: Foreign):
    found = [importer for importer in IMPORTERS if importer.recognises(file.shapes)]
    assert found, "nobody recognises it"
    return found[0]


def test_every_family_is_proven():
    assert {importer.family for importer in IMPORTERS} == set(LAYOUTS.values()) | WITHOUT_LAYOUT


@every_layout
@pytest.mark.parametrize("computed", [True, False])
def test_a_file_is_recognised_by_its_family_alone(shared_oracles, name, computed):
    file = foreign(shared_oracles / name, computed=computed)
    assert {i.family for i in IMPORTERS if i.recognises(file.shapes)} == {LAYOUTS[name]}


@every_layout
@pytest.mark.parametrize("computed", [True, False])
def test_every_tensor_of_both_sides_is_accounted_for(shared_oracles, name, computed):
    """What the model makes itself may be in the file or not; everything else has exactly one place."""
    file = foreign(shared_oracles / name, computed=computed)
    plan = importer_of(file).plan(file)
    mapped = to_ours(file.tensors, plan.rules)
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in plan.model.build().state_dict().items()}
    given = {k: tuple(v.shape) for k, v in mapped.ours.items()}
    given |= dict.fromkeys(plan.constants, ())
    lacking = {k for k in wanted.keys() - given.keys() if not k.endswith(COUNTERS)}
    if plan.model.arguments["text"] is None:
        lacking -= {"logit_scale"}
    assert lacking == set() and given.keys() <= wanted.keys()
    assert {k: s for k, s in given.items() if wanted[k] != s} == {}
    assert all(reason.strip() for reason in mapped.reasons.values())
    assert (plan.model.arguments["text"] is None) == (plan.no_text is not None)


@every_layout
def test_the_way_back_gives_the_same_names_and_shapes(shared_oracles, name):
    file = foreign(shared_oracles / name, computed=False)
    plan = importer_of(file).plan(file)
    mapped = to_ours(file.tensors, plan.rules)
    back = to_theirs(mapped.ours, plan.rules) | mapped.aside
    lost = {k for k in file.tensors if k not in back and k not in mapped.reasons}
    assert lost == set() and back.keys() <= file.tensors.keys()
    assert all(back[k].shape == file.tensors[k].shape for k in back)


@every_layout
def test_rewriting_a_tensor_can_be_undone_bit_for_bit(shared_oracles, name):
    file = foreign(shared_oracles / name, computed=False)
    plan = importer_of(file).plan(file)
    for rule in plan.rules:
        if isinstance(rule, Change):
            for key, tensor in file.tensors.items():
                if to_ours({key: tensor}, (rule, Drop("{rest*}", "other"))).ours and tensor.numel() < 10**7:
                    real = torch.randn(tensor.shape)
                    assert torch.equal(rule.back(rule.there(real)), real)
                    break


@every_layout
def test_what_is_not_known_is_named(shared_oracles, name):
    file = foreign(shared_oracles / name, computed=False)
    plan = importer_of(file).plan(file)
    with pytest.raises(CheckpointError, match=r"1 problems.*\n.*no place for: brand_new\.weight \[3\]"):
        to_ours({**file.tensors, "brand_new.weight": torch.zeros(3)}, plan.rules)


@every_layout
def test_no_rule_swallows_everything(shared_oracles, name):
    """A Drop or Computed that fits any name would hide a tensor that nobody has looked at."""
    file = foreign(shared_oracles / name, computed=True)
    for rule in importer_of(file).plan(file).rules:
        if isinstance(rule, Drop | Computed):
            assert not rule.theirs.startswith("{"), rule
