"""clapkit export, and the other commands on what it wrote."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="exporting needs the extra 'export'"
)


@pytest.fixture(scope="module")
def exported(clapkit, run, tmp_path_factory):
    """What the command said, and the folder."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    outcome = clapkit("export", run, folder, "--to", "onnx")
    assert outcome.exit_code == 0, outcome.output
    return outcome, folder


def test_it_says_how_near_the_graphs_are(exported):
    outcome, folder = exported
    report = json.loads((folder / "parity.json").read_text())
    assert "audio      lowest cosine to torch" in outcome.stderr and "text       lowest cosine" in outcome.stderr
    assert min(report[side]["lowest_cosine"] for side in ("audio", "text")) > 0.9999
    names = {path.name for path in folder.iterdir()}
    assert names == {"audio.onnx", "text.onnx", "text", "config.json", "parity.json"}


def test_the_commands_take_the_folder_for_the_model(clapkit, exported, run, sounds, tmp_path):
    _, folder = exported
    vectors = {}
    for name, model in (("torch", run), ("onnx", folder)):
        done = clapkit("embed", sounds, "--model", model, "--out", tmp_path / f"{name}.npz")
        assert done.exit_code == 0, done.output
        with np.load(tmp_path / f"{name}.npz") as file:
            vectors[name] = file["vector"]
    assert (vectors["torch"] * vectors["onnx"]).sum(1).min() > 0.9999
    told = clapkit("classify", sounds, "--model", folder, "--labels", "dog,rain", "--json")
    assert told.exit_code == 0 and len(json.loads(told.stdout)) == 4
    index = tmp_path / "index"
    assert clapkit("index", sounds, "--model", run, "--out", index).exit_code == 0
    found = clapkit("search", index, "rain", "--model", folder, "--json")
    assert found.exit_code == 0 and len(json.loads(found.stdout)) == 4
    assert (
        "onnx-fp32" in found.stderr or "openvino-fp32" in found.stderr
    )  # the note that the index was made by another pipeline


@pytest.mark.parametrize("provider", ["onnx", "openvino"])
def test_a_provider_is_chosen_on_the_command_line(clapkit, run, sounds, provider, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime"}.get(provider, provider))
    options = ("--provider", provider, "--threads", "1")
    told = clapkit("classify", sounds, "--model", run, "--labels", "dog,rain", "--json", *options)
    expected = clapkit("classify", sounds, "--model", run, "--labels", "dog,rain", "--json")
    assert told.exit_code == 0, told.output
    for row, other in zip(json.loads(told.stdout), json.loads(expected.stdout), strict=True):
        assert row["labels"][0]["probability"] == pytest.approx(other["labels"][0]["probability"], abs=1e-4)
    done = clapkit("index", sounds, "--model", run, "--out", tmp_path / "index", *options)
    assert done.exit_code == 0, done.output


def test_integers_from_the_command_line(clapkit, run, sounds, tmp_path):
    folder = tmp_path / "small"
    made = clapkit("export", run, folder, "--int8", "--calibration", sounds)
    assert made.exit_code == 0 and "audio_int8 lowest cosine" in made.stderr, made.output
    assert (folder / "audio.int8.onnx").is_file()
    done = clapkit("embed", sounds, "--model", folder, "--precision", "int8", "--out", tmp_path / "v.npz")
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "v.npz") as file:
        assert "-int8-" in str(file["pipeline_id"].flat[0]), "ranges of one's own have a name of their own"
    refused = clapkit("export", run, tmp_path / "other", "--calibration", sounds)
    assert refused.exit_code != 0 and "--calibration belongs to --int8" in refused.stderr
    refused = clapkit("embed", sounds, "--model", run, "--calibration", sounds, "--out", tmp_path / "w.npz")
    assert refused.exit_code != 0 and "calibration is for precision 'int8'" in refused.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--to", "tflite"), "--to tflite: models are exported to onnx"),
        ((), "exists already"),
    ],
)
def test_what_cannot_be_exported_is_refused(clapkit, run, words, found, tmp_path):
    out = tmp_path / "out"
    if not words:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    told = clapkit("export", run, out, *words)
    assert told.exit_code == 2 and found in told.stderr


def test_an_exported_model_is_not_exported_again(clapkit, exported, tmp_path):
    told = clapkit("export", exported[1], tmp_path / "out")
    assert told.exit_code == 2 and "is an exported model already" in told.stderr
