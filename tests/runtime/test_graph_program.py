"""An exported model behind the same door as every other, with torch and without."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile

import clapkit
from clapkit.errors import ClapkitError, MissingExtraError, ModelError, SpecError, TextTowerError
from clapkit.files import cache_folder
from clapkit.runtime.graphs.exported import VERSION

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="exporting needs the extra 'export'"
)
RATE_HZ = 8000
LABELS = ["bell", "dog bark", "rain", "siren"]
BLOCK_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate", "onnx", "onnxscript"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def clap(tiny_run):
    return clapkit.load(tiny_run.path, device="cpu")


@pytest.fixture(scope="module")
def folder(clap, tmp_path_factory):
    from clapkit.runtime.export import export

    export(clap, tmp_path_factory.mktemp("exported") / "model")
    return next(tmp_path_factory.getbasetemp().glob("exported*/model"))


@pytest.fixture(scope="module")
def sounds(toy_clips) -> list:
    """Sounds of less than a window, of a window and more, and of many windows."""
    lengths = (1, 300, 2000, 4000, 4001, 20000)
    return [(np.resize(clip.audio, n), RATE_HZ) for clip, n in zip(toy_clips, lengths, strict=False)]


@pytest.fixture
def files(sounds, tmp_path) -> list[str]:
    paths = [tmp_path / f"{number}.wav" for number in range(2, 6)]
    for path, (samples, rate_hz) in zip(paths, sounds[2:], strict=True):
        soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    return [str(path) for path in paths]


def provider_or_skip(name: str) -> str:
    package = {"onnx": "onnxruntime"}.get(name, name)
    pytest.importorskip(package, reason=f"{package} is not installed")
    return name


@pytest.fixture(params=["onnx", "openvino"])
def exported(request, folder):
    return clapkit.load(folder, provider=provider_or_skip(request.param))


def test_everything_that_torch_says_is_said_here(clap, exported, sounds):
    assert np.abs(exported.embed_audio(sounds) - clap.embed_audio(sounds)).max() < 1e-5
    texts = ["a bell rings", "", "rain " * 60]
    assert np.abs(exported.embed_text(texts) - clap.embed_text(texts)).max() < 1e-5
    assert np.abs(exported.similarity(sounds, texts) - clap.similarity(sounds, texts)).max() < 1e-5
    ours, theirs = exported.classify(sounds, LABELS), clap.classify(sounds, LABELS)
    for row, expected in zip(ours, theirs, strict=True):
        assert dict(row) == pytest.approx(dict(expected), abs=1e-4)
    vectors, starts_s, ends_s = exported.embed_windows(sounds[-1])
    for found, expected in zip((vectors, starts_s, ends_s), clap.embed_windows(sounds[-1]), strict=True):
        assert np.abs(found - expected).max() < 1e-5
    ids = np.array([[1, 70, 80, 2], [1, 90, 2, 0]])
    assert np.abs(exported.embed_tokens(ids) - clap.embed_tokens(ids)).max() < 1e-5
    for wrong in (-1, 10**6):
        with pytest.raises(TextTowerError, match=f"token ids from .*{wrong}.* do not fit"):
            exported.embed_tokens([[2, wrong]], [[1, 1]])


def test_a_sound_has_the_same_vector_alone_and_in_company(exported, sounds):
    alone = np.concatenate([exported.embed_audio([sound]) for sound in sounds])
    assert np.abs(exported.embed_audio(sounds, batch_size=3) - alone).max() < 1e-6


def test_the_space_is_the_same_and_the_pipeline_is_not(clap, exported):
    assert exported.space_id == clap.space_id
    assert exported.pipeline_id == f"{clap.pipeline_id.rpartition('/')[0]}/{exported.provider}-fp32"
    assert (exported.family, exported.dimension, exported.rate_hz) == (clap.family, clap.dimension, clap.rate_hz)


def test_what_only_torch_has_is_refused_with_the_way_out(exported, sounds, tmp_path):
    for ask in (lambda: exported.model, lambda: exported.save(tmp_path / "new")):
        with pytest.raises(ModelError, match=f"provider '{exported.provider}', without torch.*provider='torch'"):
            ask()
    with pytest.raises(SpecError, match="no vectors of frames"):
        exported.embed_frames(sounds[0])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"provider": "tensorrt"}, "provider is 'torch', 'onnx', 'openvino' or None, not 'tensorrt'"),
        ({"provider": "torch"}, "exported model, which torch cannot run"),
        ({"provider": "onnx", "precision": "bf16"}, "precision is 'fp32' or 'int8', not 'bf16'"),
        ({"provider": "onnx", "device": "cuda"}, "runs on the processor.*not 'cuda'"),
        ({"device": "cuda"}, "runs on the processor.*not 'cuda'"),
        ({"threads": 0}, "at least 1, not 0"),
        ({"variant": "x", "text": "y"}, "whole: leave out variant, text"),
    ],
)
def test_options_that_cannot_be_are_refused(folder, options, found):
    with pytest.raises(ClapkitError, match=found):
        clapkit.load(folder, **options)


def test_a_runtime_that_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"clapkit\[openvino\]"):
        clapkit.load(folder, provider="openvino")
    monkeypatch.setattr("clapkit.runtime.graphs.exported.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"clapkit\[onnx\]"):
        clapkit.load(folder)


def test_without_torch_it_embeds_classifies_and_searches_what_torch_has_indexed(clap, folder, files, tmp_path):
    clapkit.Index.build(tmp_path / "index", clap, files)
    code = """
import json, clapkit
folder, index, *files = sys.argv[1:]
clap = clapkit.load(folder, threads=1)
hits = clapkit.Index.open(index, clap).search(text="rain", audio=files[0], k=4)
built, failed = clapkit.Index.build(index + "2", clap, files + ["nothing.wav"])
again = clapkit.Index.open(index + "2").search(text="rain", k=4)
print(json.dumps({
    "audio": clap.embed_audio(files).tolist(),
    "text": clap.embed_text(["rain", "a bell"]).tolist(),
    "best": clap.classify(files, ["bell", "rain"])[0][0][0],
    "hits": [[hit.path, hit.score] for hit in hits],
    "again": len(again), "failed": len(failed),
    "torch": "torch" in sys.modules,
}))
"""
    command = [sys.executable, "-c", BLOCK_TORCH + code, str(folder), str(tmp_path / "index"), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert not told["torch"] and told["again"] == 4 and told["failed"] == 1
    assert (np.array(told["audio"]) * clap.embed_audio(files)).sum(1).min() > 0.9999
    assert (np.array(told["text"]) * clap.embed_text(["rain", "a bell"])).sum(1).min() > 0.9999
    assert told["best"] == clap.classify(files, ["bell", "rain"])[0][0][0]
    expected = clapkit.Index.open(tmp_path / "index", clap).search(text="rain", audio=files[0], k=4)
    assert [path for path, _ in told["hits"]] == [hit.path for hit in expected]


# ---- Torch models in other runtimes ----------------------------------------------------------------------------------


def test_a_torch_model_is_exported_once_into_the_cache(clap, tiny_run, sounds, monkeypatch):
    ready = clapkit.load(tiny_run.path, provider="onnx", threads=1)
    assert np.abs(ready.embed_audio(sounds) - clap.embed_audio(sounds)).max() < 1e-5
    cached = cache_folder() / "onnx" / f"v{VERSION}" / clap.space_id
    assert ready.folder == cached and (cached / "parity.json").is_file()
    monkeypatch.setattr("clapkit.runtime.export.export", None)  # a second export would be an error
    assert clapkit.load(tiny_run.path, provider=provider_or_skip("openvino")).space_id == clap.space_id


def test_bf16_is_near_and_has_a_pipeline_of_its_own(clap, folder, sounds):
    provider_or_skip("openvino")
    short = clapkit.load(folder, precision="bf16")
    assert short.provider == "openvino" and short.pipeline_id.endswith("/openvino-bf16")
    assert (short.embed_audio(sounds) * clap.embed_audio(sounds)).sum(1).min() > 0.999
    assert short.space_id == clap.space_id


def test_the_mel_stays_exact_beside_short_floats(folder):
    """A quiet band beside a loud tone: in bf16, the loud one's rounding would be all that is heard there."""
    provider_or_skip("openvino")
    exact, short = (clapkit.load(folder, provider="openvino", precision=kind) for kind in ("fp32", "bf16"))
    seconds = np.arange(4000) / RATE_HZ
    sound = (np.sin(2 * np.pi * 300 * seconds) + 1e-4 * np.sin(2 * np.pi * 3000 * seconds)).astype(np.float32)
    assert (exact.embed_audio([(sound, RATE_HZ)]) * short.embed_audio([(sound, RATE_HZ)])).sum() > 0.999
