"""Exported folders: the same vectors as in torch, for every kind of model that can be a graph."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import clapkit
from clapkit.audio.frontends import build_frontend
from clapkit.audio.kaldi import KaldiSettings
from clapkit.audio.mel import ECONOMICAL, LAION, MelFrontend, MelSettings, named_settings
from clapkit.errors import ClapkitError, ModelError, TextTowerError
from clapkit.heads.projection import MLP, Linear
from clapkit.model import DualEncoder, Windowing
from clapkit.native import Loaded, space_id
from clapkit.provenance import Report
from clapkit.runtime.engine import AudioEngine
from clapkit.runtime.export import export
from clapkit.runtime.graphs.exported import open_exported
from clapkit.runtime.graphs.mel import mel_graph
from clapkit.runtime.torch_program import TorchFront, TorchProgram
from clapkit.spec import derive, spec
from clapkit.towers import beats, htsat, m2d, resnet, resnet18, vit
from clapkit.towers.hf import TransformersText

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="exporting needs the extra 'export'"
)
SMALL = MelSettings(
    rate_hz=8000, n_fft=256, window_samples=256, hop_samples=80, mel_bins=64, low_hz=50.0, high_hz=4000.0
)
WORDS = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = {**WORDS, "model_type": "bert", "intermediate_size": 64, "max_position_embeddings": 40}
ROBERTA = {**BERT, "model_type": "roberta", "pad_token_id": 1}
GPT2 = {"model_type": "gpt2", "vocab_size": 259, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 40}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}


def made(tmp_path, *, audio, frontend=SMALL, windowing=None, text=None, head=None, **more) -> Loaded:
    """A model with random weights, in which nothing is 0 or 1 by default, and which hears its input."""
    torch.manual_seed(0)
    model_spec = spec(
        DualEncoder,
        frontend=frontend,
        audio=audio,
        text=text,
        audio_head=head or spec(MLP),
        text_head=None if text is None else spec(Linear),
        dimension=24,
        windowing=windowing or Windowing(window_s=1.0, hop_s=0.5),
        **more,
    )
    model = model_spec.build().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("input_norm.norm.running_mean"):
                tensor.fill_(-30.0)
            elif name.endswith("input_norm.norm.running_var"):
                tensor.fill_(300.0)
            elif tensor.is_floating_point() and name != "logit_scale":
                tensor.add_(0.05 * torch.randn(tensor.shape))
    return Loaded(model, None, model_spec, space_id(model, model_spec), tmp_path / "source", report=Report())


def noises(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [(0.2 * rng.standard_normal(length)).astype(np.float32) for length in lengths]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name)
        for name, settings in {
            "economical": ECONOMICAL,
            "laion": LAION,
            "efficientat": named_settings("efficientat"),
            "wav2clip": named_settings("wav2clip"),
            "glap": named_settings("glap"),
            "m2d": named_settings("m2d"),
            "not centred": MelSettings(**{**vars(SMALL), "centred": False}),
            "zeros": MelSettings(**{**vars(SMALL), "pad": "zeros", "power": 1}),
            "kaldi": KaldiSettings(),
        }.items()
    ],
)
def test_the_mel_of_real_arithmetic_is_that_of_the_front_end(settings):
    frontend = build_frontend(settings)
    graph = mel_graph(frontend)
    lengths = torch.tensor([20000, 9000, 1600])
    samples = torch.zeros(3, 20000)
    for row, sound in enumerate(noises(*lengths.tolist())):
        samples[row, : len(sound)] = torch.from_numpy(sound)
    for given in (None, lengths):
        expected, found = frontend(samples, given), graph(samples, given)
        assert torch.equal(expected.mask_BT, found.mask_BT)
        assert (expected.values - found.values).abs().max() < 2e-3


def test_the_filters_of_a_checkpoint_stay_those():
    filters = torch.rand(129, 64)
    frontend = MelFrontend(SMALL, filterbank=filters)
    samples = torch.from_numpy(np.stack(noises(8000)))
    assert (mel_graph(frontend)(samples).values - frontend(samples).values).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("audio", "windowing", "any_length"),
    [
        pytest.param(spec(resnet.ResNetTower, width=4, depths=(1, 1)), {}, True, id="resnet"),
        pytest.param(derive(vit.tiny, depth=1), {}, True, id="vit"),
        pytest.param(derive(htsat.tiny, frames_in=60), {}, True, id="htsat in chunks"),
        pytest.param(derive(htsat.tiny, frames_in=101), {"fill": "repeat-pad"}, False, id="htsat of whole windows"),
        pytest.param(derive(htsat.tiny, frames_in=101), {"fill": "zeros", "longer": "start"}, False, id="start alone"),
    ],
)
def test_sound_has_the_same_vectors_whatever_its_length_and_its_batch(tmp_path, audio, windowing, any_length):
    loaded = made(tmp_path, audio=audio, windowing=Windowing(window_s=1.0, hop_s=0.5, **windowing))
    report = export(loaded, tmp_path / "out")
    assert report["audio"]["lowest_cosine"] > 0.99999 and report["audio"]["largest_error"] < 1e-4
    assert json.loads((tmp_path / "out" / "parity.json").read_text()) == report
    ready = open_exported(tmp_path / "out", provider="onnx")
    assert (json.loads((tmp_path / "out" / "config.json").read_text())["block"] > 0) is any_length
    torch_program = TorchProgram(loaded.model)
    for lengths in [(8000,), (8000, 37, 4100, 8000, 1), (300, 200)]:
        expected = torch_program.encode_windows(noises(*lengths))
        assert np.abs(ready.program.encode_windows(noises(*lengths)) - expected).max() < 1e-5
    assert (ready.space_id, ready.program.hop, ready.program.longer) == (loaded.space_id, 4000, torch_program.longer)


@pytest.mark.parametrize("frames_in, asked", [(101, True), (60, False)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_is_given_the_mel_of_whole_windows(tmp_path, frames_in, asked, precision):
    pytest.importorskip("openvino")
    windowing = Windowing(window_s=1.0, hop_s=0.5, fill="repeat-pad" if asked else "mask")
    loaded = made(tmp_path, audio=derive(htsat.tiny, frames_in=frames_in), windowing=windowing)
    export(loaded, tmp_path / "out")
    heard = []

    class Front(TorchFront):
        def __call__(self, samples_BN):
            heard.append(len(samples_BN))
            return super().__call__(samples_BN)

    front = Front(loaded.model.frontend)
    how = {"provider": "openvino", "precision": precision, "threads": 2}
    given, alone = (open_exported(tmp_path / "out", front=f, **how) for f in (front, None))
    expected = TorchProgram(loaded.model).encode_windows(noises(8000, 4100, 300))
    found = given.program.encode_windows(noises(8000, 4100, 300))
    assert heard == ([3] if asked else [])
    if precision == "fp32":
        assert np.abs(found - expected).max() < 1e-5
    assert (found * expected).sum(1).min() > 0.999
    assert (found * alone.program.encode_windows(noises(8000, 4100, 300))).sum(1).min() > 0.9999
    threads = torch.get_num_threads()
    sounds = [(noise, 8000) for noise in noises(*[8000] * 6)]
    together = [done.vector_D for done in AudioEngine(given.program, batch_size=1).embed(sounds)]
    assert np.abs(np.stack(together) - given.program.encode_windows(noises(*[8000] * 6))).max() < 1e-4
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("audio", "frontend"),
    [
        pytest.param(beats.tiny, KaldiSettings(), id="beats"),
        pytest.param(m2d.tiny, named_settings("m2d"), id="m2d"),
        pytest.param(resnet18.tiny, named_settings("wav2clip"), id="resnet18"),
    ],
)
def test_towers_of_checkpoints_have_the_same_vectors(tmp_path, audio, frontend):
    windowing = Windowing(window_s=1.0, hop_s=1.0, fill="zeros")
    report = export(made(tmp_path, audio=audio, frontend=frontend, windowing=windowing), tmp_path / "out")
    assert report["audio"]["lowest_cosine"] > 0.99999


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(spec(TransformersText, config=BERT, max_tokens=40), id="bert, mean"),
        pytest.param(spec(TransformersText, config=ROBERTA, max_tokens=30, pooling="pooler"), id="roberta, pooler"),
        pytest.param(spec(TransformersText, config=GPT2, max_tokens=40, pooling="last_id", pad_id=0), id="gpt2, last"),
    ],
)
def test_text_has_the_same_vectors_whatever_its_length_and_its_batch(tmp_path, text):
    loaded = made(tmp_path, audio=spec(resnet.ResNetTower, width=4, depths=(1,)), text=text)
    assert export(loaded, tmp_path / "out")["text"]["lowest_cosine"] > 0.99999
    program = open_exported(tmp_path / "out", provider="onnx").program
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (5, 30), (2, 7)):
        ids = rng.integers(3, 250, (batch, length))
        mask = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
        ids = np.where(mask, ids, 0)
        expected = TorchProgram(loaded.model).encode_tokens(ids, mask)
        assert np.abs(program.encode_tokens(ids, mask) - expected).max() < 1e-5
    with pytest.raises(TextTowerError, match="41 tokens long, at most"):
        program.encode_tokens(np.ones((1, 41), np.int64), np.ones((1, 41), bool))


def test_what_was_there_stays_and_nothing_half_made_is_left(tmp_path, monkeypatch):
    loaded = made(tmp_path, audio=spec(resnet.ResNetTower, width=4, depths=(1,)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ClapkitError, match="out' exists already"):
        export(loaded, tmp_path / "out")
    monkeypatch.setattr("clapkit.runtime.export.parity.measure", lambda *_, **__: {"audio": {"lowest_cosine": 0.5}})
    with pytest.raises(ModelError, match=r"ResNetTower.*differ from those of torch: cosine 0.50000"):
        export(loaded, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_model_that_fuses_features_is_refused_with_the_reason(tmp_path):
    windowing = Windowing(window_s=1.0, hop_s=1.0, fill="repeat-pad", longer="fuse")
    loaded = made(tmp_path, audio=derive(htsat.tiny, frames_in=101, fusion=True), windowing=windowing)
    with pytest.raises(ModelError, match=r"fuses features.*four mels"):
        export(loaded, tmp_path / "out")


def test_a_tower_that_cannot_be_traced_is_named(tmp_path):
    loaded = made(tmp_path, audio=spec(resnet.ResNetTower, width=4, depths=(1,)))

    class Moody(type(loaded.model.audio)):
        def forward(self, features, keep=None):
            if float(features.values.sum()) > 0:
                features = features.with_values(-features.values)
            return super().forward(features, keep)

    loaded.model.audio.__class__ = Moody
    with pytest.raises(ModelError, match=r"\(Moody\) cannot be exported: .*and with fixed length"):
        export(loaded, tmp_path / "out")


# ---- Folders that are not what was written ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    loaded = made(folder, audio=spec(resnet.ResNetTower, width=4, depths=(1,)))
    export(loaded, folder / "out")
    return folder / "out"


def test_a_model_without_language_says_so(written):
    clap = clapkit.load(written)
    with pytest.raises(TextTowerError, match="no language side"):
        clap.embed_text(["rain"])


def test_a_graph_that_was_changed_or_lost_is_refused(written, tmp_path):
    shutil.copytree(written, tmp_path / "copy")
    with open(tmp_path / "copy" / "audio.onnx", "ab") as file:
        file.write(b"more")
    with pytest.raises(ModelError, match=r"audio.onnx is missing, or not the file"):
        clapkit.load(tmp_path / "copy")
    (tmp_path / "copy" / "audio.onnx").unlink()
    with pytest.raises(ModelError, match=r"audio.onnx is missing, or not the file"):
        clapkit.load(tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"onnx_version": 99}, "onnx_version 99, this clapkit reads 2"),
        ({"window": "long"}, "window = 'long', expected int"),
        ({"dimension": None}, "dimension = 'None', expected int"),
        ({"hop": 10**6}, "hop at most the window"),
        ({"files": {}}, "does not list audio.onnx"),
        ({"files": {"../audio.onnx": "0"}}, "does not list audio.onnx"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(written, tmp_path, change, found):
    shutil.copytree(written, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text()) | change
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=found):
        clapkit.load(tmp_path / "copy")


def test_a_graph_that_is_none_is_refused(written, tmp_path):
    from clapkit.runtime.graphs.exported import file_digest

    shutil.copytree(written, tmp_path / "copy")
    (tmp_path / "copy" / "audio.onnx").write_bytes(b"nothing")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["files"]["audio.onnx"] = file_digest(tmp_path / "copy" / "audio.onnx")
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"(onnx|openvino) cannot run its graphs"):
        clapkit.load(tmp_path / "copy")
