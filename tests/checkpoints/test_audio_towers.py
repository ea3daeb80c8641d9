"""BEATs and EfficientAT files: the numbers of the references, every key accounted for, sizes read from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import Oracle, close_embeddings, value

from clapkit.audio.kaldi import KaldiSettings
from clapkit.audio.mel_settings import EFFICIENTAT
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.audio_towers import IMPORTERS
from clapkit.checkpoints.load import read_model
from clapkit.checkpoints.rules import to_ours, to_theirs
from clapkit.errors import CheckpointError, TextTowerError
from clapkit.spec import derive
from clapkit.towers.beats import tiny as tiny_beats
from clapkit.towers.efficientat import EfficientAT, widened
from clapkit.towers.hf import skip_initialisation

BEATS_IMPORTER, EFFICIENTAT_IMPORTER = IMPORTERS
BY_FAMILY = {i.family: i for i in IMPORTERS}


def build(foreign: Foreign, importer):
    """The model of a file, without the loader."""
    assert [i.family for i in IMPORTERS if i.recognises(foreign.shapes)] == [importer.family]
    plan = importer.plan(foreign)
    with skip_initialisation():
        model = plan.model.build().eval()
    ours = to_ours(foreign.tensors, plan.rules).ours
    for name, x in model.state_dict().items():
        if name == "logit_scale" or name.endswith("num_batches_tracked"):
            ours.setdefault(name, x)
    model.load_state_dict(ours)
    return model


def check(oracle: Oracle, found: torch.Tensor, key: str) -> None:
    oracle.check(found, key, atol=1e-4 * max(1.0, float(found.abs().max())))


@pytest.fixture(scope="module", params=["efficientat_mn10", "efficientat_mn04"])
def efficientat(request, shared_oracles):
    oracle = Oracle(shared_oracles / request.param)
    return oracle, build(Foreign(oracle.tensors), EFFICIENTAT_IMPORTER)


@torch.no_grad()
def test_efficientat_gives_the_numbers_of_the_reference(efficientat):
    oracle, model = efficientat
    for i, (samples, rate_hz) in enumerate(oracle.waves()):
        assert rate_hz == model.frontend.rate_hz
        features = model.frontend(torch.from_numpy(samples)[None])
        oracle.check(features.values.mT, f"log_mel_{i}", atol=2e-4)
        summary = model.audio(features).summary_BD
        check(oracle, summary, f"audio_embedding_{i}")
        check(oracle, model.audio.logits(features), f"logits_{i}")
        close_embeddings(model.encode_features(features).numpy(), oracle.expected(f"audio_embedding_{i}"))


@torch.no_grad()
def test_efficientat_clips_of_a_batch_are_as_they_are_alone(efficientat):
    oracle, model = efficientat
    waves = [torch.from_numpy(samples) for samples, _ in oracle.waves()[:2]]
    lengths = torch.tensor([len(samples) for samples in waves])
    together = model.encode_audio(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    for i in range(2):
        close_embeddings(together[i : i + 1].numpy(), oracle.expected(f"audio_embedding_{i}"))


def test_the_preset_is_the_published_network(efficientat):
    oracle, model = efficientat
    preset = derive(widened(oracle.config["width_mult"]), classes=(model.audio.tagger.linear1.out_features, 527))
    found = {name: tuple(x.shape) for name, x in model.audio.state_dict().items()}
    assert {name: tuple(x.shape) for name, x in preset.build().state_dict().items()} == found


@pytest.fixture(scope="module")
def beats(shared_oracles):
    oracle = Oracle(shared_oracles / "beats_iter3")
    return oracle, build(Foreign(oracle.tensors, oracle.config), BEATS_IMPORTER)


@torch.no_grad()
def test_beats_gives_the_numbers_of_the_reference(beats):
    oracle, model = beats
    for i, (samples, rate_hz) in enumerate(oracle.waves()):
        if i == 2:
            continue  # ten seconds: the slowest test need not be slower
        assert rate_hz == model.frontend.rate_hz
        features = model.frontend(torch.from_numpy(samples)[None])
        tokens, real = model.audio.tokens(features)
        assert real.all()
        check(oracle, tokens, f"features_{i}")
        check(oracle, tokens.mean(1), f"features_mean_{i}")
        close_embeddings(tokens.mean(1).numpy(), oracle.expected(f"features_mean_{i}"))


@torch.no_grad()
def test_beats_clips_of_a_batch_are_as_they_are_alone(beats):
    oracle, model = beats
    waves = [torch.from_numpy(samples) for samples, _ in oracle.waves()[:2]]
    lengths = torch.tensor([len(samples) for samples in waves])
    samples_BN = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    summary = model.audio(model.frontend(samples_BN, lengths)).summary_BD
    for i in range(2):
        check(oracle, summary[i : i + 1], f"features_mean_{i}")
        close_embeddings(summary[i : i + 1].numpy(), oracle.expected(f"features_mean_{i}"))


@torch.no_grad()
def test_fine_tuned_beats_gives_the_probabilities_of_the_reference(beats, shared_oracles):
    """The two oracles share all tensors of the encoder, so one model serves both."""
    pretrained, model = beats
    oracle = Oracle(shared_oracles / "beats_iter3_finetuned_as2m")
    more = [entry for entry in oracle.layout["tensors"] if entry["name"].startswith("predictor.")]
    assert [e for e in oracle.layout["tensors"] if e not in more] == pretrained.layout["tensors"]
    head = {entry["name"]: torch.from_numpy(value(entry, oracle.seed)) for entry in more}
    plan = BEATS_IMPORTER.plan(Foreign(pretrained.tensors | head, oracle.config))
    assert plan.model.arguments["audio"].arguments["classes"] == 527
    assert any("logits" in note for note in plan.notes)
    ours = to_ours(head, plan.rules).ours
    for i, (samples, _) in enumerate(oracle.waves()[:1]):
        summary = model.audio(model.frontend(torch.from_numpy(samples)[None])).summary_BD
        logits = summary @ ours["audio.predictor.weight"].T + ours["audio.predictor.bias"]
        oracle.check(logits.sigmoid(), f"probabilities_{i}", atol=1e-5)


def test_every_key_of_beats_is_accounted_for(beats):
    oracle, model = beats
    rules = BEATS_IMPORTER.plan(Foreign(oracle.tensors, oracle.config)).rules
    kernels = {"patch_embedding_pad.weight": torch.ones(1, 1, 16, 16), "raw2fbank_pad.weight": torch.ones(1, 1, 400)}
    decoder = {"decoder.layers.0.fc1.weight": torch.ones(2, 2), "decoder_embed.bias": torch.ones(2)}
    mapped = to_ours(oracle.tensors | kernels | decoder, rules)
    assert set(mapped.ours) == {name for name in model.state_dict() if name != "logit_scale"}
    assert set(mapped.aside) == set(decoder)
    tables = {f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in range(1, 12)}
    assert set(mapped.reasons) == tables | set(kernels) | set(decoder)


# Files of a few kilobytes, written by way of the rules.


def made(tower, family: str, **more) -> dict[str, torch.Tensor]:
    """The state dict that a reference of the size of `tower` would write."""
    torch.manual_seed(0)
    model = tower.build(**more)
    state = {f"audio.{name}": torch.randn_like(x) for name, x in model.state_dict().items() if x.is_floating_point()}
    if family == "beats":
        rules = BEATS_IMPORTER.plan(Foreign(_least_beats())).rules
    else:
        shapes = {n: tuple(x.shape) for n, x in _least_efficientat(tower).items()}
        rules = EFFICIENTAT_IMPORTER.plan(Foreign({n: torch.empty(s) for n, s in shapes.items()})).rules
    return to_theirs(state, rules)


def _least_beats() -> dict[str, torch.Tensor]:
    first = "encoder.layers.0"
    shapes = {
        "patch_embedding.weight": (16, 1, 16, 16),
        f"{first}.self_attn.grep_a": (1, 2, 1, 1),
        f"{first}.self_attn.relative_attention_bias.weight": (16, 2),
        f"{first}.fc1.weight": (48, 24),
        "encoder.pos_conv.0.bias": (24,),
        "encoder.pos_conv.0.weight_v": (24, 6, 16),
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _least_efficientat(tower) -> dict[str, torch.Tensor]:
    """Names and shapes of the kernels, straight from the sizes of a tower."""
    sizes = tower.arguments
    names = {"features.0.0.weight": (sizes["stem"], 1, 3, 3), "features.16.0.weight": (sizes["final"], 1, 1, 1)}
    before = sizes["stem"]
    kernels = EfficientAT().blocks
    rows = zip(kernels, sizes["inner"], sizes["channels"], sizes["squeezed"], strict=True)
    for block, (default, inner, after, squeezed) in enumerate(rows, 1):
        part, size = 0, default.filter.kernel_size[0]
        if inner != before:
            names[f"features.{block}.block.0.0.weight"] = (inner, before, 1, 1)
            part = 1
        names[f"features.{block}.block.{part}.0.weight"] = (inner, 1, size, size)
        if squeezed:
            part += 1
            names[f"features.{block}.block.{part}.conc_se_layers.0.fc1.weight"] = (squeezed, inner)
        names[f"features.{block}.block.{part + 1}.0.weight"] = (after, inner, 1, 1)
        before = after
    return {name: torch.zeros(shape) for name, shape in names.items()}


SMALL_BEATS = derive(tiny_beats, levels=None)
SMALL_EFFICIENTAT = widened(0.1)


def save(folder: Path, tensors: dict, *, name: str = "model.pt", config: dict | None = None) -> Path:
    torch.save(tensors if config is None else {"cfg": config, "model": tensors}, folder / name)
    return folder / name


def test_a_small_beats_file_loads_with_its_sizes(tmp_path):
    tensors = made(SMALL_BEATS, "beats", bins=128)
    config = {"max_distance": 32, "activation_fn": "gelu", "finetuned_model": False}
    loaded = read_model(save(tmp_path, tensors, config=config))
    assert loaded.report.family == "beats"
    assert loaded.model.frontend.settings == KaldiSettings()
    tower = loaded.model.audio
    assert (tower.width, len(tower.blocks), tower.blocks[0].heads, tower.position.groups) == (24, 2, 2, 4)
    assert (tower.distances.buckets, tower.distances.max_distance, tower.embed.bias) == (16, 32, None)
    with pytest.raises(TextTowerError, match="BEATs files hold a model of sound alone"):
        loaded.model.encode_text(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))
    samples = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    assert loaded.model.encode_audio(samples).norm(dim=1).tolist() == pytest.approx([1, 1])


def test_both_names_of_a_normalised_convolution_are_read(tmp_path):
    older = made(SMALL_BEATS, "beats", bins=128)
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): x
        for name, x in older.items()
    }
    assert newer.keys() != older.keys()
    models = [build(Foreign(tensors, {"max_distance": 32}), BEATS_IMPORTER).state_dict() for tensors in (older, newer)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_beats_file_may_have_a_bias_classes_and_no_map_and_no_config(tmp_path):
    tower = derive(SMALL_BEATS, embed_bias=True, embed_width=24, classes=3, max_distance=800)
    loaded = read_model(save(tmp_path, made(tower, "beats", bins=128)))
    found = loaded.spec.arguments["audio"].arguments
    assert (found["embed_bias"], found["embed_width"], found["classes"], found["max_distance"]) == (True, 24, 3, 800)
    assert "max_distance=800 is taken" in loaded.report.notes[0]
    features = loaded.model.frontend(torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)))
    assert loaded.model.audio.logits(features).shape == (1, 3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_norm_first": True}, "layer_norm_first=True"),
        ({"activation_fn": "relu"}, "activation_fn='relu'"),
        ({"gru_rel_pos": False}, "gru_rel_pos=False"),
        ({"max_distance": "far"}, "max_distance='far'"),
        ({"max_distance": 3}, "max_distance=3"),
    ],
)
def test_a_beats_of_another_arithmetic_is_refused(tmp_path, config, message):
    path = save(tmp_path, made(SMALL_BEATS, "beats", bins=128), config={"max_distance": 32} | config)
    with pytest.raises(CheckpointError, match=message):
        read_model(path)


def test_damaged_beats_files_are_refused(tmp_path):
    whole = made(SMALL_BEATS, "beats", bins=128)
    config = {"max_distance": 32}
    key = "encoder.layers.1.self_attn.k_proj.weight"
    for name, tensors in {
        key: {n: x for n, x in whole.items() if n != key},
        "surplus.weight": whole | {"surplus.weight": torch.ones(2)},
        "audio.blocks.1.out.weight": whole | {"encoder.layers.1.self_attn.out_proj.weight": torch.ones(3, 3)},
        "16, 3, 16, 16": whole | {"patch_embedding.weight": torch.ones(16, 3, 16, 16)},
        "encoder.layers.0.fc1.weight": {n: x for n, x in whole.items() if n != "encoder.layers.0.fc1.weight"},
        "'encoder.pos_conv.0.weight_v' is": whole | {"encoder.pos_conv.0.weight_v": torch.ones(24, 6)},
    }.items():
        with pytest.raises(CheckpointError, match=name):
            read_model(save(tmp_path, tensors, config=config))


def test_a_small_efficientat_file_loads_with_its_sizes(tmp_path):
    tensors = made(SMALL_EFFICIENTAT, "efficientat")
    tensors |= {"features.0.1.num_batches_tracked": torch.tensor(5)}
    loaded = read_model(save(tmp_path, tensors, name="mn01_as.pt"))
    assert loaded.report.family == "efficientat"
    assert loaded.model.frontend.settings == EFFICIENTAT
    assert "does not say its front-end" in loaded.report.notes[0]
    assert loaded.spec.arguments["audio"].arguments["inner"] == SMALL_EFFICIENTAT.arguments["inner"]
    back = to_theirs(
        {n: x for n, x in loaded.model.state_dict().items() if n.startswith("audio.")},
        EFFICIENTAT_IMPORTER.plan(Foreign(tensors)).rules,
    )
    assert all(torch.equal(back[name], x) for name, x in tensors.items())
    with pytest.raises(TextTowerError, match="EfficientAT files hold a model of sound alone"):
        loaded.model.encode_text(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "variant", "hop_samples", "mel_bins"),
    [
        ("mn10_as_hop_5_mAP_475.pt", None, 160, 128),
        ("mn10_as_mels_40_mAP_453.pt", None, 320, 40),
        ("weights.pt", "hop_25", 800, 128),
        ("mn10_as_hop_5.pt", "mels_64", 320, 64),
    ],
)
def test_the_name_or_the_variant_of_an_efficientat_tell_its_front_end(name, variant, hop_samples, mel_bins):
    tensors = _least_efficientat(SMALL_EFFICIENTAT)
    plan = EFFICIENTAT_IMPORTER.plan(Foreign(tensors, path=Path(name), variant=variant))
    settings = plan.model.arguments["frontend"]
    assert (settings.hop_samples, settings.mel_bins) == (hop_samples, mel_bins)
    assert repr(variant or name) in plan.notes[0] and str(hop_samples) in plan.notes[0]


def test_an_unknown_variant_of_efficientat_is_refused():
    with pytest.raises(CheckpointError, match=r"variant='fast' .* hop_N .* mels_N"):
        EFFICIENTAT_IMPORTER.plan(Foreign(_least_efficientat(SMALL_EFFICIENTAT), variant="fast"))


def test_damaged_efficientat_files_are_refused(tmp_path):
    whole = made(SMALL_EFFICIENTAT, "efficientat")
    one, two = torch.ones(9, 48), torch.ones(3, 9)
    for name, tensors in {
        "features.9.block.2.0.weight": {n: x for n, x in whole.items() if n != "features.9.block.2.0.weight"},
        "features.9.block.2.1.bias|audio.blocks.8.norm3.bias": {
            n: x for n, x in whole.items() if n != "features.9.block.2.1.bias"
        },
        "classifier.0.weight": whole | {"classifier.0.weight": two},
        "classifier.5.weight": whole | {"classifier.2.weight": one},
        "conc_se_layers.1": whole | {"features.4.block.2.conc_se_layers.1.fc1.weight": one},
    }.items():
        with pytest.raises(CheckpointError, match=name):
            read_model(save(tmp_path, tensors))


def test_the_two_families_are_told_from_others():
    assert not any(i.recognises({"features.0.0.weight": (16, 3, 3, 3)}) for i in IMPORTERS)
    assert not any(i.recognises({"patch_embedding.weight": (512, 1, 16, 16)}) for i in IMPORTERS)
    assert set(BY_FAMILY) == {"beats", "efficientat"}
