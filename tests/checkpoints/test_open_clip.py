"""CLAP models of open_clip: the numbers of the reference, all keys accounted for, what the configuration decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import Oracle, close_embeddings
from torch.nn import functional as F

from clapkit.api import Clap
from clapkit.audio.fuse import crop_long
from clapkit.audio.mel_settings import LAION
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.laion_towers import htsat_rules
from clapkit.checkpoints.families.open_clip import IMPORTERS
from clapkit.checkpoints.rules import Rename, to_ours, to_theirs, transposed
from clapkit.errors import CheckpointError
from clapkit.heads.projection import MLP, Keep, Linear
from clapkit.model import DualEncoder
from clapkit.native import Loaded, fill
from clapkit.spec import Spec, spec
from clapkit.towers.clip_text import ClipText
from clapkit.towers.hf import TransformersText, skip_initialisation
from clapkit.towers.htsat import HTSAT

OPEN_CLIP = IMPORTERS[0]
# The mels of the fused models were transformed in float32, which is off by that much near -95 dB beside a loud tone.
FLOAT32_MEL_DB = 0.5
NAMES = ["open_clip_clap_htsat_tiny", "open_clip_clap_htsat_tiny_roberta_base"]
NAMES.append("open_clip_clap_htsat_tiny_roberta_base_fused")


def build(foreign: Foreign):
    """The model of a file, without reading one."""
    plan = OPEN_CLIP.plan(foreign)
    with skip_initialisation():
        model = plan.model.build()
    ours = to_ours(foreign.tensors, plan.rules).ours
    for name, x in model.state_dict().items():
        if name in plan.constants:
            ours[name] = torch.full_like(x, plan.constants[name])
        elif name.endswith("num_batches_tracked"):
            ours[name] = torch.zeros_like(x)
    fill(model, ours, "the test")
    return model.eval(), plan


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, shared_oracles):
    oracle = Oracle(shared_oracles / request.param)
    foreign = Foreign(oracle.tensors, {"model_cfg": oracle.config})
    assert OPEN_CLIP.recognises(foreign.shapes)
    model, plan = build(foreign)
    yield oracle, Clap(Loaded(model, None, plan.model, "space", Path("file"), pad_id=plan.pad_id)), plan
    model.to("meta")


def repeated(samples) -> torch.Tensor:
    wave = torch.from_numpy(samples)
    wave = wave.repeat(480000 // len(wave))
    return F.pad(wave, (0, 480000 - len(wave)))


@torch.no_grad()
def test_the_towers_of_the_reference(loaded):
    oracle, clap, plan = loaded
    model = clap.model
    features = model.frontend(torch.stack([repeated(samples) for samples, _ in oracle.waves()]))
    if "mel_fusion_first" in oracle.layout["expected"]:
        oracle.check(features.values, "mel_fusion_first", atol=FLOAT32_MEL_DB)
    else:
        oracle.check(features.values[:, None], "log_mel", atol=0.1)
    summary = model.audio(features).summary_BD
    oracle.check(summary, "audio_tower", atol=1e-4 * float(summary.abs().max()))
    projected = model.audio_head(summary)
    oracle.check(projected, "audio_projected", atol=1e-4 * max(1.0, float(projected.abs().max())))
    audio = F.normalize(projected, dim=-1)
    close_embeddings(audio.numpy(), oracle.expected("audio_embedding"))
    ids = torch.tensor(oracle.inputs["token_ids"])
    text = model.encode_text(ids, ids != plan.pad_id)
    close_embeddings(text.numpy(), oracle.expected("text_embedding"))
    logits = model.scale * model.similarity(audio, text)
    oracle.check(logits, "logits_audio_by_text", atol=1e-4 * max(1.0, float(logits.abs().max())))


def test_embeddings_through_the_library(loaded):
    oracle, clap, _ = loaded
    short = oracle.waves()[0]
    close_embeddings(clap.embed_audio([short]), oracle.expected("audio_embedding")[:1])
    close_embeddings(clap.embed_tokens(oracle.inputs["token_ids"]), oracle.expected("text_embedding"))
    if oracle.inputs["long_waves"]:
        both = clap.embed_audio([oracle.waves()[1], *oracle.waves("long_waves")])
        close_embeddings(both, oracle.expected("mixed_audio_embedding"))
    else:
        samples, rate_hz = oracle.waves()[2]
        longer = torch.from_numpy(samples).repeat(2).numpy()
        close_embeddings(clap.embed_audio([(longer, rate_hz)]), oracle.expected("audio_embedding")[2:3])


@torch.no_grad()
def test_the_mels_of_a_long_clip(loaded):
    oracle, clap, _ = loaded
    if not oracle.inputs["long_waves"]:
        pytest.skip("a model without fusion")
    samples = [repeated(oracle.waves()[1][0]), torch.from_numpy(oracle.waves("long_waves")[0][0])]
    mels = [crop_long(clap.model.frontend(x[None]).values[0], 1001) for x in samples]
    oracle.check(torch.stack(mels), "mixed_mel_fusion", atol=FLOAT32_MEL_DB)


def test_every_key_is_accounted_for(loaded):
    oracle, _, plan = loaded
    computed = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in oracle.computed().items()}
    mapped = to_ours(oracle.tensors | computed, plan.rules)
    dropped = {f"audio.encoder.{layer}.{kind}" for layer in ("tscam_conv", "head") for kind in ("weight", "bias")}
    counted = {name for name in computed if not name.endswith("num_batches_tracked")}
    assert set(mapped.reasons) == dropped | counted
    again = to_theirs(mapped.ours, plan.rules) | mapped.aside
    assert all(torch.equal(again[name], x) for name, x in oracle.tensors.items())
    assert again.keys() == (oracle.tensors | computed).keys() - counted


def test_what_is_said_about_it(loaded):
    oracle, clap, plan = loaded
    fused, roberta = clap.model.audio.fusion is not None, oracle.config["roberta"] is not None
    assert plan.tokenizer == ("roberta-base" if roberta else "openai/clip-vit-base-patch32")
    assert plan.pad_id == (1 if roberta else 0)
    assert plan.filterbank is None  # the oracle is loaded without what the model computes
    assert clap.model.windowing.longer == ("fuse-crop" if fused else "start")
    assert plan.notes[0] == f"the audio projection has {'relu' if roberta else 'gelu'}, as its configuration says"
    assert clap.model.frontend.settings.scale == ("htk" if fused else "slaney")


# The names of open_clip, written down a second time.
HEADS = [Rename(f"audio.proj.{n}.{{p}}", f"audio_head.linear{i}.{{p}}") for n, i in ((0, 1), (2, 2))]
HEADS += [Rename(f"text.proj.{n}.{{p}}", f"text_head.linear{i}.{{p}}") for n, i in ((0, 1), (2, 2))]
HEADS += [Rename("logit_scale", "logit_scale")]
BLOCK = ("text.transformer.resblocks.{i}", "text.blocks.{i}")
CLIP_NAMES = (
    *htsat_rules("audio.encoder."),
    *HEADS,
    Rename("text.token_embedding.weight", "text.embedding.weight"),
    Rename("text.positional_embedding", "text.position"),
    Rename(f"{BLOCK[0]}.attn.in_proj_{{p}}", f"{BLOCK[1]}.query_key_value.{{p}}"),
    Rename(f"{BLOCK[0]}.attn.out_proj.{{p}}", f"{BLOCK[1]}.out.{{p}}"),
    Rename(f"{BLOCK[0]}.mlp.c_fc.{{p}}", f"{BLOCK[1]}.rise.{{p}}"),
    Rename(f"{BLOCK[0]}.mlp.c_proj.{{p}}", f"{BLOCK[1]}.fall.{{p}}"),
    Rename(f"{BLOCK[0]}.ln_{{n}}.{{p}}", f"{BLOCK[1]}.norm{{n}}.{{p}}"),
    Rename("text.ln_final.{p}", "text.norm.{p}"),
    transposed("text.text_projection", "text_head.linear.weight"),
)
HF_NAMES = (
    *htsat_rules("audio.encoder."),
    *HEADS,
    Rename("text.transformer.{rest*}", "text.encoder.{rest*}"),
    Rename("text.proj.weight", "text_head.linear.weight"),
)
ROBERTA = {"model_type": "roberta", "vocab_size": 60, "hidden_size": 64, "num_hidden_layers": 2}
ROBERTA |= {"num_attention_heads": 1, "intermediate_size": 96, "max_position_embeddings": 40, "type_vocab_size": 1}
ROBERTA |= {"layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SIZES = {"width": 16, "depths": (2, 1, 2, 1), "heads": (2, 2, 4, 4), "window": 4, "expansion": 2.0, "frames_in": 1001}
CLIP_TEXT = spec(ClipText, vocabulary=70, width=64, depth=2, heads=1, hidden=96, max_tokens=20)


def written(text: Spec, head: Spec, *, dimension: int = 64, **fusion) -> tuple[DualEncoder, dict[str, torch.Tensor]]:
    """A model of other sizes, and the file that open_clip would write for it."""
    torch.manual_seed(0)
    model = DualEncoder(
        frontend=LAION,
        audio=spec(HTSAT, **SIZES, **fusion),
        text=text,
        audio_head=spec(MLP, hidden_width=dimension, activation="gelu"),
        text_head=head,
        dimension=dimension,
    ).eval()
    return model, to_theirs(model.state_dict(), CLIP_NAMES if text is CLIP_TEXT else HF_NAMES)


def roberta(pooling: str) -> Spec:
    return spec(TransformersText, config=ROBERTA, pooling=pooling, max_tokens=38)


@pytest.mark.parametrize("fusion", [{}, {"fusion": True, "fusion_width": 6}])
@pytest.mark.parametrize(
    ("text", "head"),
    [
        (CLIP_TEXT, spec(Linear, bias=False)),
        (roberta("pooler"), spec(MLP, hidden_width=64)),
        (roberta("pooler"), spec(Linear, bias=False)),
        (roberta("mean"), spec(Keep)),
    ],
)
def test_sizes_come_from_the_file(text, head, fusion):
    wanted, tensors = written(text, head, **fusion)
    found, plan = build(Foreign(tensors, variant="gelu"))
    for ours, theirs in zip(found.state_dict().items(), wanted.state_dict().items(), strict=True):
        assert ours[0] == theirs[0] and torch.equal(ours[1], theirs[1])
    for part in ("audio", "text", "text_head"):
        assert repr(getattr(found, part)) == repr(getattr(wanted, part))
    told = {**plan.model.arguments["audio"].arguments, **plan.model.arguments["text"].arguments}
    for name, value in {**SIZES, **text.arguments}.items():
        assert name in ("config",) or told[name] == value, name
    assert found.audio.image == 256


def without_biases(tensors):
    return {name: x for name, x in tensors.items() if name not in ("text.proj.0.bias", "text.proj.2.bias")}


def test_a_text_projection_without_biases_has_gelu():
    wanted, tensors = written(roberta("mean"), spec(MLP, hidden_width=56, activation="gelu"))
    found, _ = build(Foreign(without_biases(tensors)))
    x = torch.randn(3, 64)
    with torch.no_grad():
        torch.nn.init.zeros_(wanted.text_head.linear1.bias)
        torch.nn.init.zeros_(wanted.text_head.linear2.bias)
        assert torch.equal(found.text_head(x), wanted.text_head(x))


@pytest.mark.parametrize(
    ("config", "variant", "activation", "source"),
    [
        ({"model_cfg": {"audio_cfg": {"proj_act": "relu"}}}, "gelu", "relu", "its configuration"),
        ({"audio_cfg": {"model_type": "HTSAT"}}, "relu", "gelu", "its configuration"),
        ({}, "relu", "relu", "variant="),
        ({}, None, "gelu", "neither"),
    ],
)
def test_who_tells_the_activation(config, variant, activation, source):
    _, tensors = written(CLIP_TEXT, spec(Linear, bias=False))
    plan = OPEN_CLIP.plan(Foreign(tensors, config, variant=variant))
    assert plan.model.arguments["audio_head"].arguments["activation"] == activation
    assert activation in plan.notes[0] and source in plan.notes[0]


def test_the_layout_of_laion_has_relu_where_nobody_tells():
    _, tensors = written(roberta("pooler"), spec(MLP, hidden_width=64))
    plan = OPEN_CLIP.plan(Foreign(tensors))
    assert plan.model.arguments["audio_head"].arguments["activation"] == "relu" and "neither" in plan.notes[0]


def test_what_the_configuration_decides():
    _, tensors = written(CLIP_TEXT, spec(Linear, bias=False))
    audio = {
        "sample_rate": 32000,
        "window_size": 800,
        "hop_size": 320,
        "fmin": 20,
        "fmax": 15000,
        "clip_samples": 160000,
    }
    config = {"model_cfg": {"quick_gelu": True, "audio_cfg": audio, "text_cfg": {"heads": 4}}}
    arguments = OPEN_CLIP.plan(Foreign(tensors, config)).model.arguments
    settings = arguments["frontend"]
    assert (settings.rate_hz, settings.n_fft, settings.window_samples, settings.hop_samples) == (32000, 800, 800, 320)
    assert (settings.low_hz, settings.high_hz, settings.quantise_int16) == (20, 15000, False)
    assert arguments["windowing"].window_s == 5.0 and arguments["audio"].arguments["frames_in"] == 501
    assert arguments["text"].arguments["heads"] == 4 and arguments["text"].arguments["activation"] == "quick_gelu"
    pooled = without_biases(written(roberta("mean"), spec(Keep))[1])
    config = {"text_cfg": {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_model_name": "xlm-roberta-base"}}
    plan = OPEN_CLIP.plan(Foreign(pooled, config))
    assert plan.model.arguments["text"].arguments["pooling"] == "cls" and plan.tokenizer == "xlm-roberta-base"


def test_small_differences_of_files():
    wanted, tensors = written(CLIP_TEXT, spec(Linear, bias=False))
    more = {
        "logit_scale": tensors["logit_scale"].reshape(1),
        "logit_bias": torch.zeros(()),
        "text.attn_mask": wanted.text.position,
    }
    model, plan = build(Foreign(tensors | more))
    assert torch.equal(model.logit_scale, wanted.logit_scale)
    assert set(to_ours(tensors | more, plan.rules).reasons) == {"logit_bias", "text.attn_mask"}
    assert to_theirs({"logit_scale": wanted.logit_scale}, plan.rules)["logit_scale"].shape == (1,)


@pytest.mark.parametrize(
    ("text", "change", "config", "variant", "message"),
    [
        ("clip", {}, {}, "swish", "'swish', expected variant='gelu'"),
        ("clip", {}, {"audio_cfg": {"pre_norm": True}}, None, "audio_cfg.pre_norm = True, expected False"),
        ("clip", {}, {"text_cfg": {"pool_type": "first"}}, None, "text_cfg.pool_type = 'first'"),
        ("clip", {}, {"text_cfg": {"heads": 7}}, None, "64 wide, which cannot be divided among 7"),
        ("clip", {}, {"audio_cfg": {"sample_rate": 8000}}, None, "front-end that cannot be.*high_hz"),
        ("mean", {}, {"text_cfg": {"hf_pooler_type": "max_pooler"}}, None, "'max_pooler'"),
        ("mean", {"text.transformer.embeddings.token_type_embeddings.weight": (2, 64)}, {}, None, "2 token types"),
        ("clip", {"text.positional_embedding": (77,)}, {}, None, r"positional_embedding' is \[77\]"),
    ],
)
def test_what_cannot_be_is_refused(text, change, config, variant, message):
    _, tensors = written(*((CLIP_TEXT, spec(Linear, bias=False)) if text == "clip" else (roberta(text), spec(Keep))))
    tensors |= {name: torch.zeros(shape) for name, shape in change.items()}
    with pytest.raises(CheckpointError, match=message):
        OPEN_CLIP.plan(Foreign(tensors, config, variant=variant))


def test_other_models_are_not_recognised():
    _, tensors = written(CLIP_TEXT, spec(Linear, bias=False))
    shapes = Foreign(tensors).shapes
    assert OPEN_CLIP.recognises(shapes)
    for missing in ("audio.encoder.patch_embed.proj.weight", "text.token_embedding.weight", "logit_scale"):
        assert not OPEN_CLIP.recognises({k: v for k, v in shapes.items() if k != missing})
