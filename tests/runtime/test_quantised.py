"""Integers: the grid, the layers against their formula in float64, and whole models in every runtime."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import clapkit
from clapkit import native, opening
from clapkit.audio.mel_settings import MelSettings
from clapkit.errors import AudioErrors, ClapkitError, ModelError
from clapkit.heads.projection import Linear
from clapkit.model import DualEncoder, Windowing
from clapkit.provenance import Report
from clapkit.runtime import quantised
from clapkit.runtime.quantised import Grid, QuantisedLinear, QuantisedNorm, observed, quantise_weight
from clapkit.spec import derive, spec
from clapkit.towers import htsat, vit

needs_integers = pytest.mark.skipif(not quantised.can_quantise(), reason="this torch has no integer layers")
RATE_HZ = 8000


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0), (-1e-9, 0.0)])
def test_the_grid_spans_what_it_was_given_and_zero(low, high):
    grid = Grid(low, high)
    assert grid.scale > 0 and 0 <= grid.zero <= 255
    ends = [grid.scale * (k - grid.zero) for k in (0, 255)]
    assert ends[0] <= min(low, 0) + grid.scale and ends[1] >= max(high, 0) - grid.scale
    assert grid.scale * (grid.zero - grid.zero) == 0.0


def test_the_nearest_index_is_found_and_the_rest_becomes_the_end():
    grid, x = Grid(-1.0, 2.0), torch.linspace(-2, 3, 1001)
    for value, index in zip(x.tolist(), grid.nearest(x).tolist(), strict=True):
        exact = value / grid.scale + grid.zero
        assert abs(index - min(max(exact, 0), 255)) <= 0.5 + 1e-4


def test_weights_have_a_scale_for_each_output_and_survive_to_half_a_step():
    weight = torch.randn(6, 40) * torch.logspace(-3, 2, 6)[:, None]
    weight[2] = 0
    indices, scale = quantise_weight(weight)
    assert indices.dtype == torch.int8 and (scale > 0).all()
    assert ((indices * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()


def by_hand(linear, x, low, high):
    """The layer with rounded input and rounded weights, in float64."""
    grid = Grid(low, high)
    indices, scale = quantise_weight(linear.weight.detach())
    rounded = grid.scale * (grid.nearest(x).double() - grid.zero)
    y = rounded @ (indices.double() * scale.double()[:, None]).T
    return y if linear.bias is None else y + linear.bias.double()


@needs_integers
@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_formula(bias):
    torch.manual_seed(0)
    linear = nn.Linear(70, 90, bias=bias)
    for shape in ((1, 70), (3, 5, 70), (130, 70)):
        x = torch.randn(shape) + 1.0
        expected = by_hand(linear, x, -2.0, 4.0)
        plain = QuantisedLinear(linear, Grid(-2.0, 4.0), dtype=torch.float32)(x)
        torch.testing.assert_close(plain.double(), expected, atol=1e-4, rtol=1e-5)
        curved = QuantisedLinear(linear, Grid(-2.0, 4.0), dtype=torch.float32, gelu=True)(x)
        torch.testing.assert_close(curved.double(), F.gelu(expected), atol=1e-4, rtol=1e-5)
        short = QuantisedLinear(linear, Grid(-2.0, 4.0), dtype=torch.bfloat16)(x)
        assert short.dtype == torch.bfloat16 and torch.equal(short, plain.bfloat16())
        onto = Grid(-1.0, 5.0)
        indices = QuantisedLinear(linear, Grid(-2.0, 4.0), dtype=torch.float32, gelu=True, result=onto)(x)
        assert indices.dtype == torch.uint8
        assert (indices.int() - onto.nearest(curved).int()).abs().max() <= 1  # at a half, either neighbour


@torch.inference_mode()
def test_a_norm_gives_the_indices_of_its_result():
    torch.manual_seed(0)
    norm, grid, x = nn.LayerNorm(48), Grid(-3.0, 3.0), 5 * torch.randn(7, 48)
    norm.weight.uniform_(-1, 1)
    norm.bias.uniform_(-1, 1)
    found, expected = QuantisedNorm(norm, grid)(x).int(), grid.nearest(norm(x)).int()
    assert (found - expected).abs().max() <= 1 and (found == expected).float().mean() > 0.99


def test_the_span_of_inputs_is_observed_and_nothing_stays_behind():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 2))
    with observed(model, prefix="tower.") as ranges:
        for level in (1.0, -3.0):
            model(torch.full((1, 64), level))
    assert set(ranges) == {"tower.0", "tower.2"} and ranges["tower.0"] == (-3.0, 1.0)
    assert ranges["tower.2"][0] == 0.0
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_ranges_come_back_from_their_file_and_damage_is_no_ranges(tmp_path):
    path = tmp_path / "deep" / "ranges.json"
    assert quantised.read_ranges(path) is None
    quantised.write_ranges(path, {"b": (-1.5, 2.0), "a": (0.0, 0.25)})
    assert quantised.read_ranges(path) == {"a": (0.0, 0.25), "b": (-1.5, 2.0)}
    whole = path.read_text()
    for damage in (
        "",
        "[1, 2]",
        '{"a": 3}',
        '{"ranges": {}}',
        whole.replace("-1.5", "1.5"),
        whole.replace('"b"', '"c"'),
    ):
        path.write_text(damage)
        assert quantised.read_ranges(path) is None


def made(tmp_path, audio):
    """A model of random weights around a tower of transformers; its folder."""
    torch.manual_seed(3)
    settings = {"n_fft": 256, "window_samples": 256, "hop_samples": 80, "low_hz": 50.0, "high_hz": 4000.0}
    part = spec(
        DualEncoder,
        frontend=MelSettings(rate_hz=RATE_HZ, mel_bins=64, **settings),
        audio=audio,
        text=None,
        audio_head=spec(Linear),
        text_head=None,
        dimension=48,
        windowing=Windowing(window_s=1.0, hop_s=0.5, fill="repeat"),
    )
    model = part.build().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("input_norm.norm.running_mean"):
                tensor.fill_(-30.0)
            elif name.endswith("input_norm.norm.running_var"):
                tensor.fill_(300.0)
            elif tensor.is_floating_point() and name != "logit_scale":
                tensor.add_(0.05 * torch.randn(tensor.shape))
    native.save(model, part, tmp_path / "model", tokenizer=None, report=Report())
    return tmp_path / "model"


TOWERS = {"vit": derive(vit.tiny, width=96), "htsat": derive(htsat.tiny, width=64, heads=(2, 8))}


@pytest.fixture(params=TOWERS)
def folder(request, tmp_path):
    return made(tmp_path, TOWERS[request.param])


def sounds(count=6):
    rng = np.random.default_rng(0)
    tones = np.sin(np.outer(rng.uniform(0.02, 0.5, count), np.arange(9000)) * np.pi)
    return [((0.3 * t + 0.02 * rng.standard_normal(9000)).astype(np.float32), RATE_HZ) for t in tones]


@needs_integers
def test_a_model_in_integers_hears_nearly_the_same(folder):
    exact, quick = clapkit.load(folder), clapkit.load(folder, precision="int8")
    kinds = [type(part) for part in quick.program._sound_side().modules()]
    assert QuantisedLinear in kinds, "nothing was quantised"
    cosine = (exact.embed_audio(sounds()) * quick.embed_audio(sounds())).sum(1)
    assert 0.99 < cosine.min() < 0.9999999
    assert quick.space_id == exact.space_id and quick.pipeline_id.endswith("/int8") and quick.precision == "int8"


@needs_integers
def test_batch_mates_and_repetition_change_nothing(folder):
    clap = clapkit.load(folder, precision="int8")
    together = clap.embed_audio(sounds())
    assert np.array_equal(together, clap.embed_audio(sounds()))
    alone = np.concatenate([clap.embed_audio([sound]) for sound in sounds()])
    np.testing.assert_allclose(alone, together, atol=1e-5)


@needs_integers
def test_the_built_in_clips_are_heard_once(folder, monkeypatch):
    first = clapkit.load(folder, precision="int8").embed_audio(sounds(2))
    monkeypatch.setattr(opening, "_hear", lambda *_: pytest.fail("heard again"))
    assert np.array_equal(clapkit.load(folder, precision="int8").embed_audio(sounds(2)), first)


@needs_integers
def test_sounds_of_ones_own_give_other_ranges_and_another_name(folder):
    plain = clapkit.load(folder, precision="int8")
    own = clapkit.load(folder, precision="int8", calibration=sounds(3))
    again = clapkit.load(folder, precision="int8", calibration=sounds(3))
    assert own.pipeline_id == again.pipeline_id != plain.pipeline_id and "/int8-" in own.pipeline_id
    assert not np.array_equal(own.embed_audio(sounds(2)), plain.embed_audio(sounds(2)))


@needs_integers
def test_calibration_that_cannot_be_is_told(folder, tmp_path):
    with pytest.raises(ClapkitError, match="empty list"):
        clapkit.load(folder, precision="int8", calibration=[])
    with pytest.raises(ClapkitError, match="a list of sounds is expected"):
        clapkit.load(folder, precision="int8", calibration=sounds(1)[0])
    with pytest.raises(AudioErrors, match=r"nothing\.wav"):
        clapkit.load(folder, precision="int8", calibration=[*sounds(1), str(tmp_path / "nothing.wav")])
    with pytest.raises(ClapkitError, match="calibration is for precision 'int8', not 'bf16'"):
        clapkit.load(folder, precision="bf16", calibration=sounds(1))
    with pytest.raises(ClapkitError, match="runs on the processor: device is 'cpu' or 'auto', not 'cuda'"):
        clapkit.load(folder, precision="int8", device="cuda")
    with pytest.raises(ClapkitError, match="compile is for provider 'torch' in fp32 or bf16"):
        clapkit.load(folder, precision="int8", compile=True)


@needs_integers
def test_overdriven_bass_is_in_the_built_in_ranges(folder):
    """Heard by nobody in the sound world: with its clips alone such a sound left the grid (cosine 0.91)."""
    bass = np.clip(3 * np.sin(2 * np.pi * 97 * np.arange(8000) / RATE_HZ), -1.2, 1.2).astype(np.float32)
    quick = clapkit.load(folder, precision="int8")
    assert (quick.embed_audio([(bass, RATE_HZ)]) @ clapkit.load(folder).embed_audio([(bass, RATE_HZ)]).T).item() > 0.99


@needs_integers
def test_a_cache_that_cannot_be_written_costs_time_only(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert clapkit.load(folder, precision="int8").embed_audio(sounds(1)).shape == (1, 48)


def test_where_the_operator_is_missing_it_is_said(folder, monkeypatch):
    monkeypatch.setattr(quantised, "can_quantise", lambda: False)
    with pytest.raises(ClapkitError, match=r"no linear layers in integers.*'bf16'"):
        clapkit.load(folder, precision="int8")


@pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra 'export'")
def test_exported_integers_are_those_of_torch_in_every_runtime(tmp_path):
    folder = made(tmp_path, TOWERS["htsat"])
    exact = clapkit.load(folder).embed_audio(sounds())
    for provider in ("onnx", "openvino"):
        if find_spec({"onnx": "onnxruntime"}.get(provider, provider)):
            clap = clapkit.load(folder, provider=provider, precision="int8")
            assert (clap.embed_audio(sounds()) * exact).sum(1).min() > 0.99
            assert clap.pipeline_id.endswith(f"/{provider}-int8")
    report = json.loads((opening.exported_once(clapkit.load(folder).loaded) / "parity.json").read_text())
    assert "audio_int8" not in report
    ranges = opening.ranges_of(clapkit.load(folder).loaded, None)
    made_folder = opening.exported_once(clapkit.load(folder).loaded, ranges=ranges, label="int8")
    report = json.loads((made_folder / "parity.json").read_text())
    assert 1 - report["audio"]["lowest_cosine"] < 1e-6 < 1 - report["audio_int8"]["lowest_cosine"] < 0.01


@pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra 'export'")
def test_an_exported_folder_without_integers_says_how_to_get_them(tmp_path):
    from clapkit.runtime.export import export

    clap = clapkit.load(made(tmp_path, TOWERS["vit"]))
    export(clap, tmp_path / "graphs")
    with pytest.raises(ModelError, match="no graph in int8: export the model again with --int8"):
        clapkit.load(tmp_path / "graphs", precision="int8")


def test_compiled_vectors_are_the_same(tmp_path, monkeypatch):
    """What torch makes of the tower is torch's; that the program runs it, and only it, is ours."""
    compiled = []

    def compile(function, **_):
        compiled.append(function.__name__)
        return lambda features: function(features)

    monkeypatch.setattr(torch, "compile", compile)
    clap = clapkit.load(made(tmp_path, TOWERS["vit"]), compile=True)
    plain = clapkit.load(tmp_path / "model")
    assert compiled == ["encode_features"]
    np.testing.assert_allclose(clap.embed_audio(sounds(3)), plain.embed_audio(sounds(3)), atol=1e-5)


@pytest.mark.skipif(not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra 'export'")
def test_a_damaged_export_in_the_cache_is_made_again(tmp_path, monkeypatch):
    folder = made(tmp_path, TOWERS["vit"])
    cached = opening.exported_once(clapkit.load(folder).loaded)
    for damage in (lambda: (cached / "config.json").unlink(), lambda: (cached / "audio.onnx").write_bytes(b"half")):
        damage()
        clap = clapkit.load(folder, provider="onnx")
        assert clap.folder == cached and clap.embed_audio(sounds(1)).shape == (1, 48)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CLAPKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ClapkitError, match=r"cannot write into the cache .* set CLAPKIT_CACHE"):
        clapkit.load(folder, provider="onnx")
