"""The door of the library, with a tiny model that was really trained."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import clapkit
from clapkit.cookbook import find_recipe, recipe_files
from clapkit.errors import (
    AudioErrors,
    ClapkitError,
    MissingExtraError,
    RecipeError,
    SearchIndexError,
    SpaceMismatchError,
    SpecError,
    TextTowerError,
)

RATE_HZ = 8000
LABELS = ["bell", "dog bark", "rain", "siren", "whistle", "cricket"]


@pytest.fixture(scope="module")
def clap(tiny_run):
    return clapkit.load(tiny_run.path, device="cpu")


@pytest.fixture(scope="module")
def other(tiny_recipe, toy_clips, tmp_path_factory):
    """A model of another space."""
    from clapkit.training.loop import train

    recipe = tiny_recipe.with_set("train.steps", 1).with_set("train.seed", 5)
    return clapkit.load(train(recipe, toy_clips, out=tmp_path_factory.mktemp("other") / "run", device="cpu").path)


@pytest.fixture(scope="module")
def files(toy_clips, tmp_path_factory) -> list[str]:
    """Six sounds of 0.6 to 3 s in names that are not all plain, one of each class."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for number, clip in enumerate(toy_clips[:6]):
        path = folder / f"{clip.label} é {number}.wav"
        soundfile.write(path, np.tile(clip.audio, number % 3 * 2 + 1), RATE_HZ, subtype="FLOAT")
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def sounds(toy_clips) -> list:
    """One sound of each class, decoded already: these need no decoder processes."""
    return [(clip.audio, RATE_HZ) for clip in toy_clips[:6]]


# ---- Sound -----------------------------------------------------------------------------------------------------------


def test_a_file_is_the_same_alone_in_company_and_in_another_process(clap, files, tiny_run):
    together = clap.embed_audio(files)
    alone = np.concatenate([clap.embed_audio([path]) for path in files])  # one file is decoded in this process
    code = (
        "import sys, json, clapkit; clap = clapkit.load(sys.argv[1], device='cpu'); "
        "print(json.dumps(clap.embed_audio(json.loads(sys.argv[2])).tolist()))"
    )
    command = [sys.executable, "-c", code, str(tiny_run.path), json.dumps(files[::-1])]
    elsewhere = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert together.dtype == np.float32 and together.shape == (6, 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)
    np.testing.assert_allclose(together, elsewhere[::-1], atol=1e-5, rtol=0)


def test_every_way_to_give_a_sound_gives_the_same_vector(clap, files, tmp_path):
    samples, _ = soundfile.read(files[1], dtype="float32")
    with open(files[1], "rb") as file:
        data = file.read()
    stereo = np.stack([1.5 * samples, 0.5 * samples], axis=1)
    same = [
        files[1],
        tmp_path / "copy.wav",
        data,
        io.BytesIO(data),
        (samples, RATE_HZ),
        (samples[:, None], RATE_HZ),
        (stereo, RATE_HZ),
        (samples.astype(np.float64), RATE_HZ),
    ]
    (tmp_path / "copy.wav").write_bytes(data)
    vectors = clap.embed_audio(same)
    np.testing.assert_allclose(vectors, np.tile(vectors[0], (8, 1)), atol=1e-5, rtol=0)
    as_int16 = np.round(samples * 32767).astype(np.int16)
    np.testing.assert_allclose(clap.embed_audio([(as_int16, RATE_HZ)])[0], vectors[0], atol=0.02)


def test_nothing_gives_nothing(clap):
    assert clap.embed_audio([]).shape == (0, 16) and clap.embed_text([]).shape == (0, 16)
    assert clap.classify([], ["a"]) == [] and clap.similarity([], ["a", "b"]).shape == (0, 2)


def test_an_iterator_is_taken_once(clap, sounds):
    np.testing.assert_allclose(clap.embed_audio(iter(sounds)), clap.embed_audio(sounds), atol=1e-5)


def bad_sources(files, tmp_path) -> list:
    text = tmp_path / "text.wav"
    text.write_text("this is no sound")
    return [files[0], str(text), b"", (np.zeros(0, np.float32), RATE_HZ), files[1], str(tmp_path / "gone.wav")]


def test_all_that_failed_is_told_at_once(clap, files, tmp_path):
    with pytest.raises(AudioErrors) as caught:
        clap.embed_audio(bad_sources(files, tmp_path))
    failures = caught.value.failures
    assert [f.index for f in failures] == [1, 2, 3, 5]
    assert failures[0].source.endswith("text.wav") and "not a known sound" in failures[0].reason
    assert "no such file" in failures[3].reason and "gone.wav" in str(caught.value)
    assert 'on_error="nan"' in str(caught.value)


def test_what_failed_is_a_row_of_nan(clap, files, tmp_path):
    vectors = clap.embed_audio(bad_sources(files, tmp_path), on_error="nan")
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True, True, False, True]
    np.testing.assert_allclose(vectors[[0, 4]], clap.embed_audio(files[:2]), atol=1e-5)


@pytest.mark.parametrize(
    "one",
    ["a.wav", b"RIFF", io.BytesIO(b"RIFF"), np.zeros(100, np.float32), (np.zeros(100, np.float32), 8000)],
    ids=["path", "bytes", "file", "array", "array with rate"],
)
def test_one_sound_is_no_list(clap, one):
    with pytest.raises(ClapkitError, match=r"for one sound, give \[sound\]"):
        clap.embed_audio(one)


def test_an_unknown_way_to_treat_errors_is_refused(clap, files):
    with pytest.raises(ClapkitError, match="on_error is 'raise' or 'nan', not 'skip'"):
        clap.embed_audio(files, on_error="skip")


def test_windows_and_batches(clap, files):
    found = sorted(clap.embed_each(files, batch_size=2, workers=0), key=lambda r: r.index)
    for result, vector in zip(found, clap.embed_audio(files), strict=True):
        np.testing.assert_allclose(result.vector_D, vector, atol=1e-5)
        assert len(result.windows_WD) == len(result.starts_s)


# ---- Language --------------------------------------------------------------------------------------------------------


def test_a_text_is_the_same_in_any_company(clap):
    texts = ["a dog", "", "a much longer sentence about rain and wind", *map(str, range(100))]
    together = clap.embed_text(texts)
    assert together.dtype == np.float32 and together.shape == (103, 16)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-6)
    for index in (0, 1, 2, 50):
        np.testing.assert_allclose(clap.embed_text([texts[index]])[0], together[index], atol=1e-5)


def test_one_text_is_no_list_and_a_number_no_text(clap):
    with pytest.raises(ClapkitError, match=r"for one text, give \[text\]"):
        clap.embed_text("a dog")
    with pytest.raises(TextTowerError, match=r"is int \(3\), expected str"):
        clap.embed_text(["a", 3])


# ---- Both ------------------------------------------------------------------------------------------------------------


def test_classify_gives_probabilities_best_first(clap, sounds):
    ranked = clap.classify(sounds, LABELS, template="hear {}")
    cosine = clap.similarity(sounds, [f"hear {label}" for label in LABELS])
    scale = float(clap.model.scale.detach())
    for row, found in zip(cosine.astype(np.float64), ranked, strict=True):
        expected = np.exp(scale * row) / np.exp(scale * row).sum()
        assert sum(p for _, p in found) == pytest.approx(1.0)
        assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
        assert dict(found) == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-5)


def test_classify_can_be_short_and_takes_vectors(clap, sounds):
    whole = clap.classify(sounds, LABELS)
    assert clap.classify(sounds, LABELS, top_k=2) == [row[:2] for row in whole]
    assert dict(clap.classify(sounds[:1], LABELS, top_k=99)[0]) == pytest.approx(dict(whole[0]), abs=1e-5)
    again = clap.classify_vectors(clap.embed_audio(sounds), LABELS)
    assert [row[0][0] for row in again] == [row[0][0] for row in whole]
    assert clap.classify(sounds[:1], ["rain"]) == [[("rain", 1.0)]]


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ([], {}, ClapkitError, "a list of labels, at least one"),
        ("rain", {}, ClapkitError, "a list of labels"),
        (["rain"], {"top_k": 0}, ClapkitError, "top_k is at least 1, not 0"),
        (["rain"], {"template": "no place"}, SpecError, "'no place' has no place for the label"),
        (["rain"], {"template": ""}, SpecError, "has no place for the label"),
    ],
)
def test_classify_refuses_what_makes_no_sense(clap, sounds, labels, options, error, message):
    with pytest.raises(error, match=message):
        clap.classify(sounds, labels, **options)


def test_similarity_is_the_cosine(clap, sounds):
    found = clap.similarity(sounds, ["rain", "dog"])
    np.testing.assert_allclose(found, clap.embed_audio(sounds) @ clap.embed_text(["rain", "dog"]).T, atol=1e-6)
    assert found.dtype == np.float32 and np.abs(found).max() <= 1 + 1e-6


# ---- Loading ---------------------------------------------------------------------------------------------------------


def test_ids_name_space_and_pipeline(clap, tiny_run):
    assert clap.space_id == tiny_run.space_id and clap.pipeline_id.startswith(clap.space_id + "/")
    half = clapkit.load(tiny_run.path, precision="bf16", device="cpu")
    assert half.space_id == clap.space_id and half.pipeline_id != clap.pipeline_id
    assert isinstance(clap.model, clapkit.DualEncoder) and clap.dimension == 16


def test_threads_are_set_when_asked_for(tiny_run):
    import torch

    before = torch.get_num_threads()
    try:
        clapkit.load(tiny_run.path, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ClapkitError, match="threads is a number of processor threads, at least 1, not 0"):
        clapkit.load(tiny_run.path, threads=0)


def test_an_unknown_precision_is_refused(tiny_run):
    with pytest.raises(ClapkitError, match="precision is 'fp32' or 'bf16' or 'int8', not 'fp8'"):
        clapkit.load(tiny_run.path, precision="fp8")


# ---- Index -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index_folder(clap, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "sounds"
    gone = str(folder.parent / "gone.wav")
    about = [{"label": label, "n": n} for n, label in enumerate([*LABELS, "gone"])]
    index, failures = clapkit.Index.build(folder, clap, [*files, gone], metadata=about)
    assert len(index) == 6 and [(f.index, f.source) for f in failures] == [(6, gone)]
    return folder


def test_a_sound_finds_itself_first(index_folder, clap, files):
    index = clapkit.Index.open(index_folder, model=clap)
    for number, path in enumerate(files):
        hit = index.search(audio=path, k=3)[0]
        assert (hit.id, hit.path) == (path, path) and hit.score == pytest.approx(1.0, abs=1e-5)
        assert hit.metadata["label"] == LABELS[number] and hit.metadata["n"] == number and hit.start_s == 0.0
        assert hit.metadata["duration_s"] == pytest.approx(0.6 * (number % 3 * 2 + 1))


def test_text_and_both_order_by_cosine(index_folder, clap, files):
    index = clapkit.Index.open(index_folder, model=clap)
    audio, text = clap.embed_audio(files), clap.embed_text(["hear rain"])[0]
    by_text = {h.path: h.score for h in index.search("hear rain", k=6)}
    assert list(by_text.values()) == sorted(by_text.values(), reverse=True)
    assert [by_text[p] for p in files] == pytest.approx((audio @ text).tolist(), abs=1e-5)
    both = text + audio[3]
    found = {h.path: h.score for h in index.search(text="hear rain", audio=files[3], k=6)}
    assert [found[p] for p in files] == pytest.approx((audio @ (both / np.linalg.norm(both))).tolist(), abs=1e-5)
    assert len(index.search("rain", k=2)) == 2


def test_the_index_remembers_its_model(index_folder, clap):
    index = clapkit.Index.open(index_folder)
    assert index.model.space_id == clap.space_id and index.note is None
    assert [h.id for h in index.search("rain")] == [h.id for h in clapkit.Index.open(index_folder, clap).search("rain")]


def test_a_model_of_another_space_is_refused_with_both_ids(index_folder, clap, other):
    with pytest.raises(SpaceMismatchError) as caught:
        clapkit.Index.open(index_folder, model=other)
    assert clap.space_id in str(caught.value) and other.space_id in str(caught.value)


def test_another_precision_is_a_note(index_folder, tiny_run):
    index = clapkit.Index.open(index_folder, model=clapkit.load(tiny_run.path, precision="bf16", device="cpu"))
    assert "the space is the same" in index.note


def test_without_a_model_there_are_vectors(index_folder, clap, files, monkeypatch):
    def no_torch(*args, **kwargs):
        raise MissingExtraError("torch", "torch", "Loading a model")

    monkeypatch.setattr("clapkit.library.load", no_torch)
    index = clapkit.Index.open(index_folder)
    assert index.model is None
    vector = clap.embed_audio(files[:1])[0]
    assert index.search_vector(3 * vector, k=1)[0].score == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(SearchIndexError, match="opened without a model"):
        index.search("rain")
    with pytest.raises(SearchIndexError, match="has no direction"):
        index.search_vector(0 * vector)


def test_a_search_for_nothing_is_refused(index_folder, clap):
    with pytest.raises(SearchIndexError, match="needs a text, a sound, or both"):
        clapkit.Index.open(index_folder, clap).search()


def test_files_named_twice_are_told_before_work_starts(clap, files, tmp_path):
    with pytest.raises(SearchIndexError, match=r"1 files are named more than once"):
        clapkit.Index.build(tmp_path / "index", clap, [*files, files[2]])
    assert not (tmp_path / "index").exists()


# ---- Training --------------------------------------------------------------------------------------------------------


def test_train_takes_recipes_clips_and_settings(tiny_recipe, toy_clips, tmp_path):
    run = clapkit.train(tiny_recipe, toy_clips, out=tmp_path / "run", train__steps=2, batch__clips=4, device="cpu")
    written = json.loads((run.path / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    assert written["train"]["steps"] == 2 and written["batch"]["clips"] == 4
    again = clapkit.train(
        tiny_recipe, toy_clips, out=tmp_path / "run", resume=True, train__steps=2, batch__clips=4, device="cpu"
    )
    assert again.space_id == run.space_id


def test_train_reads_a_folder_of_classes(tiny_recipe, toy_clips, tmp_path):
    for clip in toy_clips[:12]:
        folder = tmp_path / "data" / clip.label.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{clip.id}.wav", clip.audio, RATE_HZ)
    run = clapkit.train(tiny_recipe, tmp_path / "data", out=tmp_path / "run", train__steps=2, device="cpu")
    assert json.loads((run.path / "data.json").read_text(encoding="utf-8"))["used"] == 12


def test_recipes_are_found_by_file_name_or_attribute():
    assert find_recipe("contrastive") is find_recipe("clapkit.recipes.dual.contrastive:recipe")
    assert recipe_files()["contrastive"] == "clapkit.recipes.dual.contrastive"
    with pytest.raises(RecipeError, match="no recipe 'contrastiv'; did you mean 'contrastive'"):
        find_recipe("contrastiv")
    with pytest.raises(RecipeError, match="cannot read the recipe 'nothing:here'"):
        find_recipe("nothing:here")


def test_settings_that_do_not_exist_are_refused_before_data_is_read(tiny_recipe, tmp_path):
    with pytest.raises(RecipeError, match="'stepz'; did you mean 'steps'"):
        clapkit.train(tiny_recipe, tmp_path / "no data", out=tmp_path / "run", train__stepz=3)
    with pytest.raises(RecipeError, match="no scale 'huge'"):
        clapkit.train(tiny_recipe, tmp_path / "no data", out=tmp_path / "run", scale="huge")


def test_windows_and_frames_of_one_source(tiny_run, rng):
    clap = clapkit.load(tiny_run.path, device="cpu")
    sound = (rng.standard_normal(8000 * 4).astype(np.float32) * 0.1, 8000)
    vectors, start_s, end_s = clap.embed_windows(sound)
    assert len(vectors) == len(start_s) == len(end_s) > 1
    assert start_s[0] == 0 and end_s[-1] == 4.0 and (end_s > start_s).all()
    frames, times_s = clap.embed_frames(sound)
    assert frames.shape == (len(times_s), clap.dimension) and 0 < times_s[0] < times_s[-1] < 4.0
    np.testing.assert_allclose(np.linalg.norm(frames, axis=1), 1, atol=1e-5)
    for call in (clap.embed_windows, clap.embed_frames):
        with pytest.raises(clapkit.AudioErrors, match="no sample"):
            call((np.zeros(0, np.float32), 8000))
