"""The README.md of a model folder says what the folder holds."""

from __future__ import annotations

import json

import pytest

from clapkit import native
from clapkit.audio.mel_settings import LAION
from clapkit.checkpoints.card import PARTS, describe, write_card
from clapkit.errors import ModelError
from clapkit.heads.projection import Linear
from clapkit.model import DualEncoder, Windowing
from clapkit.provenance import Report
from clapkit.spec import spec
from clapkit.towers.resnet import ResNetTower

REPORT = Report(
    family="laion",
    about="a small one",
    licence="CC0 1.0",
    mapped=3,
    dropped={f"layers.{i}.head.weight": "no part of retrieval" for i in range(4)},
    notes=("sound is rounded",),
    text_missing="the file has no texts: give text=...",
)


def small(**settings):
    return spec(
        DualEncoder,
        frontend=LAION,
        audio=spec(ResNetTower, width=4, depths=(1, 1)),
        text=None,
        audio_head=spec(Linear),
        text_head=None,
        dimension=8,
        **settings,
    )


@pytest.fixture
def folder(tmp_path):
    model_spec = small(windowing=Windowing(10.0, 5.0, fill="repeat-pad"))
    native.save(model_spec.build(), model_spec, tmp_path / "a-model", tokenizer=None, report=REPORT)
    return tmp_path / "a-model"


def test_the_facts_add_up():
    model = small().build()
    numbers = {name: p.numel() for name, p in model.named_parameters()}
    facts = describe(small(), numbers, REPORT, space_id="space-1")
    assert sum(facts["parameters"].values()) == sum(numbers.values())
    assert facts["parameters"][PARTS["audio"]] == sum(p.numel() for p in model.audio.parameters())
    assert PARTS["text"] not in facts["parameters"]
    assert facts["dropped"] == [{"tensors": "layers.{i}.head.weight", "count": 4, "reason": "no part of retrieval"}]
    assert facts["towers"] == {"audio": "ResNetTower", "text": None}
    json.dumps(facts)


@pytest.mark.parametrize(
    ("windowing", "words"),
    [
        (
            None,
            "5 s; shorter sound is padded and the padding is not heard; longer sound is heard in windows every 2.5 s",
        ),
        (Windowing(7.0, 7.0, fill="repeat", longer="start"), "repeated until the window is full; of longer sound only"),
        (Windowing(10.0, 10.0, fill="repeat-pad", longer="fuse"), "then followed by silence; longer sound is heard as"),
        (
            Windowing(10.0, 10.0, fill="zeros", longer="fuse-crop"),
            "followed by silence; longer sound is heard in a crop",
        ),
    ],
)
def test_windows_in_words(windowing, words):
    facts = describe(small(**({"windowing": windowing} if windowing else {})), {}, Report())
    assert words in facts["window_in_words"]


def test_a_card_says_what_the_folder_holds(folder):
    path = write_card(folder)
    text = path.read_text(encoding="utf-8")
    assert path == folder / "README.md" and text.startswith("---\nlibrary_name: clapkit\nlicense: cc0-1.0\n")
    config = json.loads((folder / "config.json").read_text())
    for words in (
        "# a-model",
        "A model of sound: a small one. It was made from a checkpoint of the family laion.",
        "48000 Hz mono, rounded to 16 bits; 64 mel bands from 50 to 14000 Hz, a frame every 10 ms",
        "10 s; shorter sound is repeated whole",
        config["space_id"],
        "- sound is rounded\n",
        "# No texts: the file has no texts: give text=...",
        'clapkit.load("a-model")',
    ):
        assert words in text, text
    assert "None" not in text
    assert 'clapkit.load("me/model")' in write_card(folder, name="me/model").read_text()  # its own card is replaced


def test_a_model_with_texts(tiny_run):
    text = write_card(tiny_run.path).read_text(encoding="utf-8")
    assert "A model of sound and language in one space: made with clapkit." in text
    assert 'clap.classify(["dog.wav"], ["a dog barks", "rain"])' in text
    assert "license:" not in text and "text tower" in text


def test_what_somebody_wrote_is_not_replaced(folder):
    (folder / "README.md").write_text("# Mine")
    with pytest.raises(ModelError, match=r"README\.md' was written by hand"):
        write_card(folder)
    assert (folder / "README.md").read_text() == "# Mine"


def test_folders_that_are_no_models(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        write_card(tmp_path / "empty")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model": "text"}))
    with pytest.raises(ModelError, match="does not describe a model"):
        write_card(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model\.safetensors' cannot be read"):
        write_card(folder)
