"""Tags and events in the layouts of FSD50K, AudioSet, MagnaTagATune, DCASE 2017, DESED and URBAN-SED."""

from __future__ import annotations

import csv

import pytest

from clapkit.data.clip import Event
from clapkit.errors import DataError
from clapkit.evaluation.tasks import audioset, captioned, fsd50k, music_captions, strong, tagged
from clapkit.text.prompts import clean_label

ALL = (
    *fsd50k.TASKS,
    *audioset.TASKS,
    *strong.TASKS,
    *captioned.TASKS,
    *music_captions.TASKS,
    *tagged.TASKS,
)


def write(path, rows, *, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)


def lay(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_a_folder_of_something_else_says_what_was_expected(tmp_path, task):
    folder = tmp_path / task.layout.folders[0]
    lay(folder, "holiday.jpg")
    with pytest.raises(DataError, match=r"expected .*\w"):
        task.open(tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=f"no data for the task '{task.name}'.*expected a folder named"):
        task.open(tmp_path / "other")


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_each_task_says_where_it_is_documented_under_which_licence_and_where_its_size_is_from(task):
    assert "http" in task.layout.documented
    assert task.layout.licence
    assert "http" in task.expected.source
    assert set(task.prompts) <= set(task.expected.classes or task.prompts)
    for label in task.expected.classes or ():
        assert clean_label(task.phrase(label)) == task.phrase(label), "a label that is no words needs a prompt"


def test_names_of_tasks_are_their_own():
    names = [task.name for task in ALL]
    assert len(set(names)) == len(names)


def test_fsd50k_reads_all_labels_and_keeps_the_parts_apart(tmp_path):
    folder = tmp_path / "FSD50K"
    labels = "Burping_and_eructation,Human_voice"
    write(
        folder / "FSD50K.ground_truth" / "eval.csv",
        [
            ["fname", "labels", "mids"],
            ["37199", labels, "/m/03q5_w,/m/09l8g"],
            ["9", "Bark,Dog", "/m/05tny_,/m/0bt9lr"],
        ],
    )
    write(
        folder / "FSD50K.ground_truth" / "dev.csv",
        [["fname", "labels", "mids", "split"], ["1", "Rain", "/m/06mb1", "train"], ["2", "Rain", "/m/06mb1", "val"]],
    )
    lay(folder, "FSD50K.eval_audio/37199.wav", "FSD50K.dev_audio/1.wav")
    read = fsd50k.read_fsd50k(folder)
    assert [(clip.tags, clip.split) for clip in read.clips] == [
        (("Burping_and_eructation", "Human_voice"), "eval"),
        (("Rain",), "train"),
    ]
    opened = fsd50k.fsd50k.open(tmp_path)
    assert [clip.id for clip in opened.clips] == ["FSD50K.eval_audio/37199.wav"]
    assert opened.differences[:2] == (
        "1 files of the list are missing: FSD50K.eval_audio/9.wav",
        "1 clips, published are 10231",
    )
    assert opened.differences[2].startswith("198 classes without a clip: Accelerating_and_revving_and_vroom")
    assert opened.classes == fsd50k.CLASSES


def test_fsd50k_has_two_hundred_classes_with_words():
    assert len(set(fsd50k.CLASSES)) == 200
    assert fsd50k.in_words("Accelerating_and_revving_and_vroom") == "accelerating, revving, vroom"
    assert fsd50k.in_words("Tick-tock") == "tick-tock"
    assert fsd50k.in_words("Sink_(filling_or_washing)") == "sink (filling or washing)"


def test_a_class_that_was_not_published_is_named(tmp_path):
    write(tmp_path / "FSD50K/FSD50K.ground_truth/eval.csv", [["fname", "labels", "mids"], ["3", "Bark,Kazoo", "a,b"]])
    lay(tmp_path / "FSD50K", "FSD50K.eval_audio/3.wav")
    opened = fsd50k.fsd50k.open(tmp_path)
    assert "1 classes that were not published: Kazoo" in opened.differences
    assert opened.classes[-1] == "Kazoo"


def test_a_clip_without_tags_is_left_out_and_named(tmp_path):
    """A tagging score asks which tags a clip has: of a clip that nobody tagged, nothing is known."""
    write(
        tmp_path / "FSD50K/FSD50K.ground_truth/eval.csv",
        [["fname", "labels", "mids"], ["3", "Bark", "a"], ["4", "", ""], ["5", "", ""]],
    )
    lay(tmp_path / "FSD50K", *(f"FSD50K.eval_audio/{n}.wav" for n in (3, 4, 5)))
    opened = fsd50k.fsd50k.open(tmp_path)
    assert [clip.tags for clip in opened.clips] == [("Bark",)]
    assert "2 clips without tags: FSD50K.eval_audio/4.wav, FSD50K.eval_audio/5.wav" in opened.differences
    write(tmp_path / "FSD50K/FSD50K.ground_truth/eval.csv", [["fname", "labels", "mids"], ["4", "", ""]])
    with pytest.raises(DataError, match=r"1 are of the splits eval, and these have no tags"):
        fsd50k.fsd50k.open(tmp_path)


SEGMENTS = """\
# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=20371, num_segs=20371, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"
--4gqARaEJE, 0.000, 10.000, "/m/068hy"
ABCDEFGHIJK, 30.000, 33.000, "/m/068hy"
"""
INDEX = [
    ["index", "mid", "display_name"],
    ["0", "/m/03v3yw", "Keys jangling"],
    ["1", "/m/0k4j", "Car"],
    ["2", "/m/068hy", "Domestic animals, pets"],
]


def an_audioset(folder, mids=INDEX):
    folder.mkdir(parents=True)
    (folder / "eval_segments.csv").write_text(SEGMENTS, encoding="utf-8")
    write(folder / "class_labels_indices.csv", mids)
    lay(folder, "eval_segments/Y-0RWZT-miFs.wav", "eval_segments/--4gqARaEJE_0.000_10.000.wav")


def test_audioset_puts_display_names_for_mids(tmp_path):
    an_audioset(tmp_path / "AudioSet")
    opened = audioset.audioset.open(tmp_path)
    assert [(clip.id, clip.tags) for clip in opened.clips] == [
        ("-0RWZT-miFs_420", ("Keys jangling", "Car")),
        ("--4gqARaEJE_0", ("Domestic animals, pets",)),
    ]
    assert opened.classes == ("Car", "Domestic animals, pets", "Keys jangling")
    assert opened.differences == (
        "1 files of the list are missing: ABCDEFGHIJK_30",
        "2 clips, published are 20371 (videos disappear: whoever downloads today gets fewer)",
    )


def test_a_mid_without_a_name_is_refused(tmp_path):
    an_audioset(tmp_path / "AudioSet", INDEX[:3])
    with pytest.raises(DataError, match="found the label '/m/068hy', which the list of display names does not have"):
        audioset.audioset.open(tmp_path)


def test_a_list_of_segments_with_other_columns_is_refused(tmp_path):
    an_audioset(tmp_path / "AudioSet")
    (tmp_path / "AudioSet" / "eval_segments.csv").write_text("-0RWZT-miFs, 420.000, Car\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"found the row \['-0RWZT-miFs', '420.000', 'Car'\], expected YTID"):
        audioset.audioset.open(tmp_path)


def test_strong_labels_of_audioset_become_events_and_tags(tmp_path):
    folder = tmp_path / "AudioSet-strong"
    write(
        folder / "audioset_eval_strong.tsv",
        [
            ["segment_id", "start_time_seconds", "end_time_seconds", "label"],
            ["s9d-2nhuJCQ_30000", "2.627", "7.237", "/m/053hz1"],
            ["s9d-2nhuJCQ_30000", "0.000", "1.500", "/m/09x0r"],
            ["b0RFK_bpFJA_5500", "0.1", "0.2", "/m/09x0r"],
            ["gone0000000_0", "0.1", "0.2", "/m/09x0r"],
        ],
        delimiter="\t",
    )
    names = [["/m/053hz1", "Cheering"], ["/m/09x0r", "Speech"]]
    write(folder / "mid_to_display_name.tsv", names, delimiter="\t")
    lay(folder, "audio/eval/s9d-2nhuJCQ_30000.flac", "audio/eval/Yb0RFK_bpFJA_5500_15500.flac")
    opened = audioset.audioset_strong.open(tmp_path)
    first, second = opened.clips
    assert first.events == (Event("Speech", 0.0, 1.5), Event("Cheering", 2.627, 7.237))
    assert (first.tags, second.tags) == (("Cheering", "Speech"), ("Speech",))
    assert [clip.id for clip in opened.clips] == ["s9d-2nhuJCQ_30", "b0RFK_bpFJA_5.5"]
    assert opened.differences[0] == "1 files of the list are missing: gone0000000_0"
    assert opened.differences[1].startswith("2 clips, published are 16996")


def a_magnatagatune(folder, *paths, tags):
    others = ["sea", *tagged.TOP_50]
    rows = [["clip_id", *others, "mp3_path"]]
    for number, path in enumerate(paths):
        rows.append([str(number), *(str(int(tag in tags[number])) for tag in others), path])
    write(folder / "annotations_final.csv", rows, delimiter="\t")


def test_magnatagatune_splits_by_folder_and_leaves_out_what_has_none_of_the_fifty_tags(tmp_path):
    folder = tmp_path / "MagnaTagATune"
    paths = ("f/bach-cantatas-01-gleichwie-30-59.mp3", "f/bach-cantatas-01-gleichwie-59-88.mp3", "d/x-y-02-z-0-29.mp3")
    paths = (*paths, "c/v-y-02-z-0-29.mp3", "0/t-y-02-z-0-29.mp3", "e/gone-y-02-z-0-29.mp3")
    tags = [{"guitar", "no vocals", "sea"}, {"quiet"}, {"sea"}, {"rock"}, {"rock"}, {"rock"}]
    a_magnatagatune(folder, *paths, tags=tags)
    lay(folder, *(f"mp3/{path}" for path in paths if "gone" not in path))
    read = tagged.read_magnatagatune(folder)
    assert [clip.split for clip in read.clips] == ["test", "test", "valid", "train"]
    opened = tagged.magnatagatune.open(tmp_path)
    assert [clip.tags for clip in opened.clips] == [("guitar", "no vocals"), ("quiet",)]
    assert {clip.meta["recording"] for clip in opened.clips} == {"f/bach-cantatas-01-gleichwie"}
    assert opened.differences[0] == "1 files of the list are missing: mp3/e/gone-y-02-z-0-29.mp3"
    assert opened.differences[1].startswith("47 classes without a clip: ambient, ")
    assert len(opened.differences) == 2
    assert len(set(tagged.TOP_50)) == 50


def test_an_mp3_outside_the_sixteen_folders_is_named(tmp_path):
    a_magnatagatune(tmp_path, "x/a-0-29.mp3", tags=[{"rock"}])
    with pytest.raises(DataError, match=r"found the mp3_path 'x/a-0-29\.mp3', expected one that starts with a folder"):
        tagged.read_magnatagatune(tmp_path)


@pytest.mark.parametrize("place", ["", "groundtruth_release", "metadata"])
def test_smart_cars_have_tags_of_the_weak_and_events_of_the_strong_list(tmp_path, place):
    folder = tmp_path / "DCASE2017-task4"
    one, two = "-5QrBL6MzLg_60.000_70.000.wav", "3ACjUf9QpAQ_30.000_40.000.wav"
    weak = [[one, "60.000", "70.000", "Train horn"], [one, "60.000", "70.000", "Air horn, truck horn"]]
    weak += [[two, "30.000", "40.000", "Car"], ["zzzzzzzzzzz_0.000_9.000.wav", "0.000", "9.000", "Car"]]
    strong_rows = [[one, "1.5", "2.25", "Train horn"], [one, "0", "0", "Air horn, truck horn"]]
    write(folder / place / "groundtruth_weak_label_evaluation_set.csv", weak, delimiter="\t")
    write(folder / place / "groundtruth_strong_label_evaluation_set.csv", strong_rows, delimiter="\t")
    write(folder / place / "groundtruth_weak_label_testing_set.csv", weak[2:3], delimiter="\t")
    lay(folder, f"evaluation/Y{one}", f"evaluation/{two}")
    opened = tagged.dcase17_task4.open(tmp_path)
    assert [clip.tags for clip in opened.clips] == [("Train horn", "Air horn, truck horn"), ("Car",)]
    assert [clip.events for clip in opened.clips] == [(Event("Train horn", 1.5, 2.25),), ()]
    assert opened.differences[0] == "1 files of the list are missing: zzzzzzzzzzz_0.000_9.000.wav"
    assert opened.differences[1] == "2 clips, published are 1103"
    assert "14 classes without a clip" in opened.differences[2]


@pytest.mark.parametrize("below", ["", "dataset/"])
def test_desed_reads_events_and_clips_without_one(tmp_path, below):
    folder = tmp_path / "DESED"
    head = ["filename", "onset", "offset", "event_label"]
    rows = [head, ["a_120_130.wav", "3.8", "10.0", "Frying"], ["a_120_130.wav", "0.000", "2.081", "Speech"]]
    rows += [["quiet.wav", "", "", ""], ["gone.wav", "1", "2", "Cat"]]
    write(folder / below / "metadata/eval/public.tsv", rows, delimiter="\t")
    write(folder / below / "metadata/validation/validation.tsv", [head, ["v.wav", "1", "2", "Dog"]], delimiter="\t")
    lay(folder / below, "audio/eval/public/a_120_130.wav", "audio/eval/public/quiet.wav", "audio/validation/v.wav")
    opened = strong.desed.open(tmp_path)
    (clip,) = opened.clips
    assert clip.events == (Event("Speech", 0.0, 2.081), Event("Frying", 3.8, 10.0))
    assert clip.tags == ("Frying", "Speech")
    assert opened.differences[0] == "1 files of the list are missing: audio/eval/public/gone.wav"
    assert opened.differences[1] == "1 clips without tags: audio/eval/public/quiet.wav"
    assert opened.differences[2] == "1 clips, published are 692"
    assert strong.desed.phrase("Electric_shaver_toothbrush") == "an electric shaver or toothbrush"
    assert [clip.tags for clip in strong.desed_validation.open(tmp_path).clips] == [("Dog",)]


def test_urban_sed_reads_a_text_a_soundscape(tmp_path):
    folder = tmp_path / "URBAN-SED_v2.0.0"
    name = "soundscape_test_uniform{}"
    for split, number, rows in [
        ("test", 0, [["3.5", "5.0", "siren"], ["0.5", "9.0", "siren"], ["0.5", "2.0", "dog_bark"]]),
        ("test", 1, [["1", "2", "jackhammer"]]),
        ("test", 2, []),
        ("train", 3, [["1", "2", "gun_shot"]]),
    ]:
        write(folder / "annotations" / split / f"{name.format(number)}.txt", rows, delimiter="\t")
        if number != 1:
            lay(folder, f"audio/{split}/{name.format(number)}.wav")
    opened = strong.urban_sed.open(tmp_path)
    (clip,) = opened.clips
    assert clip.events == (Event("dog_bark", 0.5, 2.0), Event("siren", 0.5, 9.0), Event("siren", 3.5, 5.0))
    assert clip.tags == ("dog_bark", "siren")
    assert opened.differences[:3] == (
        "1 files of the list are missing: audio/test/soundscape_test_uniform1.wav",
        "1 clips without tags: audio/test/soundscape_test_uniform2.wav",
        "1 clips, published are 2000",
    )
    (folder / "annotations/test" / f"{name.format(0)}.txt").write_text("0.5\tsoon\tsiren\n", encoding="utf-8")
    with pytest.raises(DataError, match="found 'soon' where a time is expected"):
        strong.urban_sed.open(tmp_path)
