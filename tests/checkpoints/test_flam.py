"""OpenFLAM files: global and frame-wise numbers of the reference, all keys accounted for, sizes read from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import Oracle, close_embeddings
from torch.nn import functional as F

from clapkit.api import Clap
from clapkit.audio.mel_settings import LAION
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families import laion, open_clip
from clapkit.checkpoints.families.flam import IMPORTERS
from clapkit.checkpoints.families.laion_towers import htsat_rules
from clapkit.checkpoints.rules import Rename, to_ours, to_theirs
from clapkit.errors import CheckpointError
from clapkit.heads.framewise import FramewiseHead, frame_cosines
from clapkit.heads.projection import MLP
from clapkit.model import DualEncoder
from clapkit.native import Loaded, fill
from clapkit.spec import spec
from clapkit.towers.hf import TransformersText, skip_initialisation
from clapkit.towers.htsat import HTSAT

FLAM = IMPORTERS[0]


def build(foreign: Foreign):
    """The model of a file, without reading one."""
    plan = FLAM.plan(foreign)
    with skip_initialisation():
        model = plan.model.build()
    ours = to_ours(foreign.tensors, plan.rules).ours
    ours |= {n: torch.zeros_like(x) for n, x in model.state_dict().items() if n in plan.constants}
    fill(model, ours, "the test")
    return model.eval(), plan


@pytest.fixture(scope="module")
def oracle(shared_oracles) -> Oracle:
    return Oracle(shared_oracles / "openflam_v1_base")


@pytest.fixture(scope="module")
def loaded(oracle):
    foreign = Foreign(oracle.tensors)
    assert FLAM.recognises(foreign.shapes)
    model, plan = build(foreign)
    yield model, plan
    model.to("meta")


@pytest.fixture(scope="module")
def heard(oracle, loaded):
    """What the audio tower says about the waves of the reference."""
    model, _ = loaded
    with torch.no_grad():
        features = model.frontend(torch.stack([torch.from_numpy(samples) for samples, _ in oracle.waves()]))
        return features, model.audio(features)


@torch.no_grad()
def test_the_audio_side(oracle, loaded, heard):
    model, _ = loaded
    features, output = heard
    oracle.check(features.values[:, None], "log_mel", atol=0.1)
    oracle.check(output.frames_BTD, "audio_fine_grained", atol=1e-4 * float(output.frames_BTD.abs().max()))
    oracle.check(output.summary_BD, "audio_tower", atol=1e-4 * max(1.0, float(output.summary_BD.abs().max())))
    close_embeddings(model.encode_features(features).numpy(), oracle.expected("audio_embedding"))
    local = F.normalize(model.audio_head(output.frames_BTD), dim=-1)
    close_embeddings(local.flatten(0, 1).numpy(), oracle.expected("local_audio_features").reshape(-1, 512))
    assert output.mask_BT.all() and output.frames_BTD.shape[1] == 32


@torch.no_grad()
def test_the_frame_wise_maps(oracle, loaded, heard):
    model, _ = loaded
    ids, mask = (torch.tensor(oracle.inputs[key]) for key in ("token_ids", "attention_mask"))
    texts = model.text_features(ids, mask.bool())
    oracle.check(texts, "text_tower", atol=1e-4)
    text = model.project_text(texts)
    close_embeddings(text.numpy(), oracle.expected("text_embedding"))
    terms = model.framewise(texts)
    oracle.check(terms.bias_C, "per_text_logit_bias", atol=1e-4 * float(terms.bias_C.abs().max()))
    oracle.check(terms.scale_C, "per_text_logit_scale", atol=1e-4 * float(terms.scale_C.abs().max()))
    cosine = frame_cosines(model.audio_head(heard[1].frames_BTD), text)
    oracle.check(model.framewise.scores(cosine, terms), "local_similarity_unbiased", atol=1e-4)
    ignored = model.framewise.scores(cosine, terms, prior="ignored")
    oracle.check(ignored, "local_similarity_approximate", atol=1e-4)
    audio = model.encode_features(heard[0])
    oracle.check(model.similarity(audio, text), "cosine_audio_by_text", atol=1e-5)


def test_embeddings_through_the_library(oracle, loaded):
    model, plan = loaded
    clap = Clap(Loaded(model, None, plan.model, "space", Path("file"), pad_id=plan.pad_id))
    close_embeddings(clap.embed_audio(oracle.waves()[:1]), oracle.expected("audio_embedding")[:1])
    close_embeddings(clap.embed_tokens(oracle.inputs["token_ids"]), oracle.expected("text_embedding"))


def test_every_key_is_accounted_for(oracle, loaded):
    _, plan = loaded
    computed = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in oracle.computed().items()}
    mapped = to_ours(oracle.tensors | computed, plan.rules)
    assert set(mapped.reasons) == {name for name in computed if not name.endswith("num_batches_tracked")}
    assert not mapped.aside, "nothing of this file is left out"
    again = to_theirs(mapped.ours, plan.rules)
    assert all(torch.equal(again[name], x) for name, x in oracle.tensors.items())
    assert again.keys() == (oracle.tensors | computed).keys() - set(mapped.reasons)


def test_what_is_said_about_it(loaded):
    model, plan = loaded
    assert (plan.tokenizer, plan.pad_id, plan.filterbank) == ("roberta-base", 1, None)
    assert (model.windowing.window_s, model.windowing.fill, model.windowing.longer) == (10.0, "zeros", "windows")
    assert not model.frontend.settings.quantise_int16
    assert float(model.framewise.log_scale) == 0.0


NAMES = (
    *htsat_rules("audio_branch."),
    Rename("text_branch.{rest*}", "text.encoder.{rest*}"),
    *(
        Rename(f"{theirs}.{n}.{{p}}", f"{ours}.linear{i}.{{p}}")
        for theirs, ours in (
            ("audio_projection", "audio_head"),
            ("text_projection", "text_head"),
            ("fc_per_text_logit_bias", "framewise.bias"),
            ("fc_per_text_logit_scale", "framewise.scale"),
        )
        for n, i in ((0, 1), (2, 2))
    ),
    Rename("logit_scale_a", "logit_scale"),
    Rename("aed_logit_scale", "framewise.log_scale"),
)
ROBERTA = {"model_type": "roberta", "vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2}
ROBERTA |= {"num_attention_heads": 1, "intermediate_size": 96, "max_position_embeddings": 40, "type_vocab_size": 1}
ROBERTA |= {"layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SIZES = {"width": 16, "depths": (2, 1, 2, 1), "heads": (2, 2, 4, 4), "window": 4, "expansion": 2.0, "frames_in": 1001}


def written() -> tuple[DualEncoder, dict[str, torch.Tensor]]:
    """A model of other sizes, and the file that openflam would write for it."""
    torch.manual_seed(0)
    model = DualEncoder(
        frontend=LAION,
        audio=spec(HTSAT, **SIZES),
        text=spec(TransformersText, config=ROBERTA, pooling="pooler", max_tokens=38),
        audio_head=spec(MLP, hidden_width=40),
        text_head=spec(MLP, hidden_width=56),
        dimension=24,
        framewise=spec(FramewiseHead, text_width=64, hidden_width=20),
    ).eval()
    return model, to_theirs(model.state_dict(), NAMES)


def test_sizes_come_from_the_file():
    wanted, tensors = written()
    found, plan = build(Foreign(tensors))
    for ours, theirs in zip(found.state_dict().items(), wanted.state_dict().items(), strict=True):
        assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1])
    assert repr(found.audio) == repr(wanted.audio) and repr(found.framewise) == repr(wanted.framewise)
    assert plan.model.arguments["audio"].arguments["depths"] == SIZES["depths"]


def test_a_file_without_counters_and_with_filters():
    _, tensors = written()
    counter = "audio_branch.bn0.num_batches_tracked"
    more = {"audio_branch.logmel_extractor.melW": torch.zeros(513, 64)}
    model, plan = build(Foreign({n: x for n, x in (tensors | more).items() if n != counter}))
    assert plan.filterbank == "audio_branch.logmel_extractor.melW"
    assert int(model.audio.input_norm.norm.num_batches_tracked) == 0


def test_it_is_told_from_its_relatives():
    shapes = Foreign(written()[1]).shapes
    assert FLAM.recognises(shapes)
    assert not laion.IMPORTERS[0].recognises(shapes) and not open_clip.IMPORTERS[0].recognises(shapes)
    assert not FLAM.recognises({n: s for n, s in shapes.items() if not n.startswith("fc_per_text_logit_bias")})


@pytest.mark.parametrize("name", ["fc_per_text_logit_bias.0.weight", "audio_projection.2.weight"])
def test_damaged_sizes_are_named(name):
    _, tensors = written()
    with pytest.raises(CheckpointError, match=rf"'{name}' is \[5\]"):
        FLAM.plan(Foreign(tensors | {name: torch.zeros(5)}))
