"""The model folder: saved whole, loaded whole or refused; and the identity of its space."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clapkit import native
from clapkit.errors import ModelError, TextTowerError
from clapkit.provenance import pipeline_id
from clapkit.spec import derive, from_json
from clapkit.text.tokenizers import TextTokenizer

GOLDEN = Path(__file__).parent / "golden" / "model_v1"


@pytest.fixture
def folder(tiny_run, tmp_path) -> Path:
    """A copy of a model folder, to be damaged."""
    return Path(shutil.copytree(tiny_run.model_path, tmp_path / "model"))


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def model_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model"]


def vectors(loaded: native.Loaded) -> torch.Tensor:
    ids, mask = loaded.tokenizer.encode(["a dog", "rain"])
    sound = torch.randn(2, 4000, generator=torch.Generator().manual_seed(4)) * 0.1
    with torch.inference_mode():
        text = loaded.model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask))
        return torch.cat([text, loaded.model.encode_audio(sound)])


def test_what_is_loaded_is_what_was_saved(folder, tmp_path):
    loaded = native.load(folder)
    space = native.save(loaded.model, loaded.spec, tmp_path / "again", tokenizer=loaded.tokenizer)
    again = native.load(tmp_path / "again")
    assert space == loaded.space_id == again.space_id and again.spec == loaded.spec
    assert torch.equal(vectors(loaded), vectors(again)) and not again.model.training
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["config.json", "model.safetensors", "text"]


def test_the_run_folder_and_its_model_folder_are_the_same_model(tiny_run):
    assert native.load(tiny_run.path).space_id == native.load(str(tiny_run.model_path)).space_id == tiny_run.space_id


def test_the_folder_needs_no_text_model_beside_it(folder):
    """The text tower is written out in full: no name that has to be found on another machine."""
    assert model_config(folder)["text"]["part"] == "clapkit.towers.hf:TransformersText"
    assert "pretrained_text" not in (folder / "config.json").read_text(encoding="utf-8")


def test_the_folder_does_not_follow_our_defaults(folder):
    model = model_config(folder)
    assert model["audio"]["stem_kernel"] and model["audio_head"]["bias"] is True and model["temperature"] == 0.07


# ---- space_id --------------------------------------------------------------------------------------------------------


def test_the_space_is_that_of_weights_front_end_and_window(folder):
    loaded = native.load(folder)
    spec = loaded.spec

    def changed(**arguments) -> str:
        other = derive(spec, **arguments)
        return native.space_id(loaded.model, other)

    assert native.space_id(loaded.model, spec) == loaded.space_id
    assert changed(temperature=0.5) == changed(frozen_text=False) == loaded.space_id, "they move no vector"
    frontend, windowing = spec.arguments["frontend"], spec.arguments["windowing"]
    others = [
        changed(frontend=type(frontend)(**{**vars(frontend), "hop_samples": 100})),
        changed(windowing=type(windowing)(window_s=0.5, hop_s=0.5)),
        changed(windowing=type(windowing)(window_s=1.0, hop_s=0.25)),
    ]
    with torch.no_grad():
        loaded.model.logit_scale += 1
        assert native.space_id(loaded.model, spec) == loaded.space_id, "nor does the learnt temperature"
        next(p for n, p in loaded.model.named_parameters() if n.startswith("audio.")).view(-1)[0] += 1e-3
    others.append(native.space_id(loaded.model, spec))
    assert len({loaded.space_id, *others}) == 5


def test_the_layout_in_memory_is_no_part_of_the_space(folder):
    loaded = native.load(folder)
    moved = loaded.model.to(memory_format=torch.channels_last)
    assert native.space_id(moved, loaded.spec) == loaded.space_id


def test_the_pipeline_names_space_decoder_resampler_and_precision(folder):
    named = pipeline_id("space-1", precision="bf16")
    assert named.startswith("space-1/clapkit-decode-") and named.endswith("/bf16") and named.count("/") == 3
    assert pipeline_id("space-1", precision="bf16", provider="openvino") == named.replace("/bf16", "/openvino-bf16")


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_missing_left_over_and_misshapen_tensors_are_listed(folder):
    def change(tensors):
        del tensors["audio_head.linear.bias"]
        tensors["extra"] = torch.zeros(1)
        tensors["text_head.linear.bias"] = torch.zeros(7)

    edit_tensors(folder, change)
    with pytest.raises(ModelError, match="3 problems") as caught:
        native.load(folder)
    for line in (
        "missing: audio_head.linear.bias",
        "left over: extra",
        "shape of text_head.linear.bias: (7,) in the file, (16,) in the model",
    ):
        assert line in str(caught.value)


def test_changed_weights_are_refused_with_both_spaces(folder, tiny_run):
    edit_tensors(folder, lambda tensors: tensors["audio_head.linear.bias"].add_(1e-3))
    with pytest.raises(ModelError, match=f"config.json says {tiny_run.space_id} but .* are space-"):
        native.load(folder)


def test_a_changed_setting_is_refused(folder):
    model = model_config(folder)
    model["windowing"]["hop_s"] = 0.125
    edit_config(folder, model=model)
    with pytest.raises(ModelError, match="a file was changed or does not belong here"):
        native.load(folder)


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_weights_that_cannot_be_read_are_told(folder, damage):
    path = folder / "model.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-50] if damage == "cut" else b"\x80\x05 no tensors at all" * 9)
    message = "is missing: the folder is not whole" if damage == "gone" else "cannot be read as safetensors"
    with pytest.raises(ModelError, match=message):
        native.load(folder)


def test_a_missing_tokenizer_is_told(folder):
    shutil.rmtree(folder / "text")
    with pytest.raises(TextTowerError, match=r"has no tokenizer\.json: the folder is not whole"):
        native.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as a model configuration"),
        ("[]", "cannot be read as a model configuration"),
        ('{"model": 1}', "cannot be read as a model configuration"),
        ("[" * 100_000, "cannot be read as a model configuration"),
        ('{"format_version": 2}', "has format_version 2, this clapkit reads 1: update clapkit"),
        ('{"format_version": 1}', "the model cannot be built"),
        ('{"format_version": 1, "model": "x"}', "describes 'x', not a DualEncoder"),
    ],
)
def test_configurations_that_cannot_be_read_are_told(folder, text, message):
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        native.load(folder)


def test_a_huge_configuration_is_not_read(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(17 << 20)
    with pytest.raises(ModelError, match="larger than 16 MiB"):
        native.load(folder)


def test_a_model_larger_than_memory_is_refused(folder):
    model = model_config(folder)
    model["dimension"] = 1 << 48
    edit_config(folder, model=model)
    with pytest.raises(ModelError, match="the model cannot be built"):
        native.load(folder)


def test_a_class_of_another_package_is_not_imported(folder, tmp_path, monkeypatch):
    mark = tmp_path / "was_imported"
    (tmp_path / "canary_parts.py").write_text(f"open({str(mark)!r}, 'w')\nclass Tower: pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    model = model_config(folder)
    model["audio"] = {"part": "canary_parts:Tower", "kind": "spec"}
    edit_config(folder, model=model)
    with pytest.raises(ModelError, match=r"package 'canary_parts', which would run .* trust=\['canary_parts'\]"):
        native.load(folder)
    assert not mark.exists() and "canary_parts" not in sys.modules


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("clapkit:import_module", {"name": "antigravity"}, "has no part 'import_module'"),
        ("clapkit.training.log:JsonLines", {"path": "victim", "first_step": 0}, "is not a class of torch.nn.Module"),
        ("clapkit.towers.pretrained:pretrained_text", {}, "is not a class of torch.nn.Module"),
    ],
)
def test_only_modules_are_called(folder, tmp_path, monkeypatch, target, arguments, message):
    """A part of ours that writes files, or finds importlib through us, is no tower."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").write_text("precious")
    model = model_config(folder)
    model["text"] = {"part": target, "kind": "spec", **arguments}
    edit_config(folder, model=model)
    with pytest.raises(ModelError, match=message):
        native.load(folder)
    assert (tmp_path / "victim").read_text() == "precious" and "antigravity" not in sys.modules


def test_something_that_is_no_dual_encoder_is_refused(folder):
    edit_config(folder, model={"part": "clapkit.heads.projection:Linear", "kind": "spec"})
    with pytest.raises(ModelError, match=r"it describes Linear\(\), not a DualEncoder"):
        native.load(folder)


def test_places_without_a_model_say_what_they_are(tmp_path):
    with pytest.raises(ModelError, match="there is no model at"):
        native.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        native.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelError, match=r"is a run that has not ended: finish it with .* --resume"):
        native.load(tmp_path)


# ---- golden folder ---------------------------------------------------------------------------------------------------


def test_the_golden_folder_of_version_1_stays_loadable():
    """Written once by the first version. If this fails, models that people have saved have become useless."""
    loaded = native.load(GOLDEN)
    known = json.loads((GOLDEN / "known.json").read_text(encoding="utf-8"))
    # Its windows were laid otherwise: the weights are recognised, the vectors of long sound are of another space.
    assert loaded.space_id != known["space_id"]
    assert known["space_id"] == native.space_id(loaded.model, loaded.spec, algorithm="clapkit-space-1")
    ids, mask = loaded.tokenizer.encode(known["texts"])
    seconds = torch.arange(8000) / 8000
    sound = torch.stack([torch.sin(2 * torch.pi * hz * seconds) * 0.3 for hz in known["tones_hz"]])[:, :4000]
    with torch.inference_mode():
        text = loaded.model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask))
        audio = loaded.model.encode_audio(sound)
    np.testing.assert_allclose(text, known["text_vectors"], atol=1e-5)
    np.testing.assert_allclose(audio, known["audio_vectors"], atol=1e-5)
    assert sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file()) < 200_000


def test_the_golden_specification_can_be_written_as_it_was():
    loaded = native.load(GOLDEN)
    assert from_json(model_config(GOLDEN)) == loaded.spec
    assert isinstance(loaded.tokenizer, TextTokenizer) and loaded.folder == GOLDEN
