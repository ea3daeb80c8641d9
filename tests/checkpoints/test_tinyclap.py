"""tinyCLAP students: the numbers of the reference, sizes read from the file, the text side from the teacher's file."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from oracle import Oracle, close_embeddings
from shrunk import shrunk

import clapkit
from clapkit.audio.mel_settings import MSCLAP_2022
from clapkit.checkpoints.base import Foreign
from clapkit.checkpoints.families.tinyclap import IMPORTERS
from clapkit.checkpoints.rules import to_ours, to_theirs
from clapkit.errors import CheckpointError, TextTowerError
from clapkit.spec import derive
from clapkit.towers.phinet import phinet

IMPORTER = IMPORTERS[0]
SMALLER, LARGER = "tinyclap_phinet_a0.75_b0.75_t4_n6", "tinyclap_phinet_a1.5_b0.75_t6_n7"
TEACHER = "msclap_2022_cnn14_bert"

every_size = pytest.mark.parametrize("oracle", [SMALLER, LARGER], indirect=True)


@pytest.fixture
def oracle(request, shared_oracles) -> Oracle:
    return Oracle(shared_oracles / request.param)


def build(oracle: Oracle, **changed):
    plan = IMPORTER.plan(Foreign(oracle.tensors))
    model = derive(plan.model, **changed).build().eval()
    ours = to_ours(oracle.tensors, plan.rules).ours
    kept = {n: x for n, x in model.state_dict().items() if n.endswith("num_batches_tracked") or n == "logit_scale"}
    model.load_state_dict(ours | kept)
    return model


@torch.no_grad()
@every_size
def test_the_numbers_of_the_reference(oracle):
    model = build(oracle)
    for i, (samples, _) in enumerate(oracle.waves()):
        features = model.frontend(torch.from_numpy(samples)[None])
        oracle.check(features.values[:, None], f"log_mel_{i}", atol=1e-3)
        out = model.audio(features)
        oracle.check(out.summary_BD, f"audio_tower_{i}", atol=1e-4 * float(out.summary_BD.abs().max()))
        projected = model.audio_head(out.summary_BD)
        oracle.check(projected, f"audio_projected_{i}", atol=1e-4 * float(projected.abs().max()))
        close_embeddings(model.encode_features(features).numpy(), oracle.expected(f"audio_embedding_{i}"))


@torch.no_grad()
@every_size
def test_the_map_behind_the_last_block_is_that_of_the_reference(oracle):
    model, seen = build(oracle), []
    model.audio.blocks[-1].register_forward_hook(lambda _module, _inputs, image: seen.append(image))
    for i, (samples, _) in enumerate(oracle.waves()):
        model.encode_audio(torch.from_numpy(samples)[None])
        oracle.check(seen[i], f"phinet_map_{i}", atol=1e-4 * max(1.0, float(seen[i].abs().max())))


@torch.no_grad()
@pytest.mark.parametrize("oracle", [LARGER], indirect=True)
def test_why_the_spectrum_is_a_convolution(oracle):
    """This network makes of the rounding of quiet bands more than the bar of parity allows, with random weights."""
    exact = build(oracle, frontend=MSCLAP_2022)
    samples, _ = oracle.waves()[1]
    wanted = oracle.expected("audio_embedding_1")
    found = exact.encode_audio(torch.from_numpy(samples)[None]).numpy()
    assert np.abs(np.linalg.norm(found - wanted)) > 1e-4
    assert (found * wanted).sum() > 0.99999


@torch.no_grad()
@pytest.mark.parametrize("oracle", [SMALLER], indirect=True)
def test_clips_of_a_batch_are_as_they_are_alone(oracle):
    model = build(oracle)
    waves = [torch.from_numpy(samples) for samples, _ in oracle.waves()]
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    together = model.encode_audio(batch, torch.tensor([len(x) for x in waves]))
    for i, alone in enumerate(waves):
        torch.testing.assert_close(together[i], model.encode_audio(alone[None])[0], atol=1e-5, rtol=0)


@every_size
def test_sizes_in_the_file_are_those_of_its_name(oracle):
    alpha, beta, t_zero, blocks = (float(x) for x in re.findall(r"_([\d.]+)", oracle.config["name"]))
    tower = IMPORTER.plan(Foreign(oracle.tensors)).model.arguments["audio"]
    assert tower == phinet(alpha=alpha, beta=beta, t_zero=t_zero, blocks=int(blocks))


@every_size
def test_there_and_back_is_bit_identical(oracle):
    mapped = to_ours(oracle.tensors, IMPORTER.plan(Foreign(oracle.tensors)).rules)
    back = to_theirs(mapped.ours, IMPORTER.plan(Foreign(oracle.tensors)).rules)
    assert not mapped.reasons and back.keys() == oracle.tensors.keys()
    assert all(torch.equal(back[key], oracle.tensors[key]) for key in back)


def saved(tensors, path):
    torch.save(tensors, path)
    return path


def test_the_text_side_is_that_of_the_teacher(shared_oracles, tmp_path):
    student = saved(shrunk(shared_oracles / LARGER), tmp_path / "student.ckpt")
    teacher = saved({"model": shrunk(shared_oracles / TEACHER)}, tmp_path / "CLAP_weights_2022.pth")
    alone = clapkit.load(student)
    assert alone.family == "tinyclap"
    with pytest.raises(TextTowerError, match=r"128 dimensions.*text=<path of CLAP_weights_2022.pth>"):
        alone.embed_text(["a dog"])
    joined, ids = clapkit.load(student, text=teacher), np.array([[101, 5, 6, 102]])
    np.testing.assert_allclose(joined.embed_tokens(ids), clapkit.load(teacher).embed_tokens(ids), atol=1e-6)
    sound = [(np.random.default_rng(0).standard_normal(30_000).astype(np.float32) / 10, 44100)]
    np.testing.assert_array_equal(joined.embed_audio(sound), alone.embed_audio(sound))


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("base._layers.4._layers.7.weight", "_layers.4._layers.7.weight"),
        ("base._layers.4._layers.1.bias", "audio.blocks.2.widen_norm.bias"),
        ("base.bn0.weight", "base.bn0.weight"),
        ("projection.layer_norm.bias", "audio_head.norm.bias"),
    ],
)
def test_a_lost_tensor_is_named(shared_oracles, tmp_path, lost, named):
    tensors = shrunk(shared_oracles / SMALLER)
    del tensors[lost]
    with pytest.raises(CheckpointError, match=re.escape(named)):
        clapkit.load(saved(tensors, tmp_path / "student.ckpt"))


def test_a_stem_that_does_not_fit_is_refused(shared_oracles):
    tensors = shrunk(shared_oracles / SMALLER) | {"base._layers.1._layers.1.weight": torch.zeros(9, 1, 1, 1)}
    with pytest.raises(CheckpointError, match="makes 9 channels, but the next block reads 36"):
        IMPORTER.plan(Foreign(tensors))


def test_a_stem_alone_is_refused(shared_oracles):
    tensors = {k: v for k, v in shrunk(shared_oracles / SMALLER).items() if not re.match(r"base\._layers\.[2-9]", k)}
    with pytest.raises(CheckpointError, match="no block behind it"):
        IMPORTER.plan(Foreign(tensors))
