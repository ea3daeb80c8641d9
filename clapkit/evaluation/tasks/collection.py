"""Data sets that came as a folder with a manifest, some of which are also read in the layout of their makers."""

from __future__ import annotations

import re
from pathlib import Path

from clapkit.data.clip import Clip
from clapkit.data.manifest import read
from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.emotions import IN_A_VOICE, voices
from clapkit.evaluation.tasks.keywords import SAID
from clapkit.evaluation.tasks.listing import listed, names, present, read_rows, refuse, sounds

ESC50_CLASSES = names(
    "dog, rooster, pig, cow, frog, cat, hen, insects, sheep, crow",
    "rain, sea_waves, crackling_fire, crickets, chirping_birds, water_drops, wind, pouring_water, toilet_flush",
    "thunderstorm, crying_baby, sneezing, clapping, breathing, coughing, footsteps, laughing, brushing_teeth, snoring",
    "drinking_sipping, door_wood_knock, mouse_click, keyboard_typing, door_wood_creaks, can_opening, washing_machine",
    "vacuum_cleaner, clock_alarm, clock_tick, glass_breaking, helicopter, chainsaw, siren, car_horn, engine, train",
    "church_bells, airplane, fireworks, hand_saw",
)
ESC10_CLASSES = names(
    "dog, rooster, rain, sea_waves, crackling_fire, crying_baby, sneezing, clock_tick, helicopter, chainsaw"
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EMOTIONS = {
    "W": "angry",
    "L": "bored",
    "E": "disgusted",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
INSTRUMENTS = {
    "acoustic guitar": "an acoustic guitar",
    "bass drum": "a bass drum",
    "cello": "a cello",
    "clarinet": "a clarinet",
    "double bass": "a double bass",
    "flute": "a flute",
    "hi-hat": "a hi-hat",
    "saxophone": "a saxophone",
    "snare drum": "a snare drum",
    "violin": "a violin",
}
_EMODB_NAME = re.compile(r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-f]")
_EMODB_TEST_SPEAKERS = ("03", "09")
_FSDD_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)")


def read_manifest(folder: Path) -> Read:
    """The clips of `manifest.csv`; DataError where there is none."""
    if not (folder / "manifest.csv").is_file():
        refuse(folder, "a manifest.csv with path, label, caption and split")
    return present(read(folder / "manifest.csv", check_files=False, need_text=False).clips)


def read_esc50(folder: Path) -> Read:
    """All clips of ESC-50, with the names that `meta/esc50.csv` gives the classes."""
    if not (folder / "meta" / "esc50.csv").is_file():
        if not (folder / "manifest.csv").is_file():
            refuse(folder, "meta/esc50.csv with the folder audio, or a manifest.csv")
        held = read_manifest(folder)
        return Read(tuple(_with_official_class(clip) for clip in held.clips), held.missing, held.splits)
    rows = read_rows(folder / "meta" / "esc50.csv", ("filename", "fold", "category", "esc10", "src_file", "take"))
    return present(
        listed(
            folder,
            f"audio/{row['filename']}",
            label=row["category"],
            split=f"fold{row['fold']}",
            meta={"freesound_id": row["src_file"], "take": row["take"], "esc10": row["esc10"]},
        )
        for row in rows
    )


def read_esc10(folder: Path) -> Read:
    """The clips of ESC-50 that are in ESC-10; a missing file counts where its class number is one of ESC-10."""
    whole = read_esc50(folder)
    clips = tuple(clip for clip in whole.clips if str(clip.meta.get("esc10")).lower() == "true")
    numbers = {str(ESC50_CLASSES.index(name)) for name in ESC10_CLASSES}
    missing = tuple(name for name in whole.missing if Path(name).stem.rsplit("-", 1)[-1] in numbers)
    return Read(clips, missing, whole.splits)


def read_fsdd(folder: Path) -> Read:
    """Spoken digits: recordings/7_jackson_32.wav is the 33rd take of "seven"; takes 0 to 4 are the test set."""
    if not (folder / "recordings").is_dir():
        if not (folder / "manifest.csv").is_file():
            refuse(folder, "a folder recordings with files such as 7_jackson_32.wav, or a manifest.csv")
        return read_manifest(folder)
    clips = []
    for name in sounds(folder / "recordings", below=False):
        said = _FSDD_NAME.fullmatch(Path(name).stem)
        if said is None:
            continue
        split = "test" if int(said["take"]) < 5 else "train"
        about = {"label": DIGITS[int(said["digit"])], "split": split, "meta": {"speaker": said["speaker"]}}
        clips.append(listed(folder, f"recordings/{name}", **about))
    return Read(tuple(clips))


def read_emodb(folder: Path) -> Read:
    """Acted emotions: wav/03a01Fa.wav is speaker 03, text a01, happiness ("Freude"), version a."""
    if not (folder / "wav").is_dir():
        if not (folder / "manifest.csv").is_file():
            refuse(folder, "a folder wav with files such as 03a01Fa.wav, or a manifest.csv")
        return read_manifest(folder)
    clips = []
    for name in sounds(folder / "wav", below=False):
        said = _EMODB_NAME.fullmatch(Path(name).stem)
        if said is None:
            continue
        split = "test" if said["speaker"] in _EMODB_TEST_SPEAKERS else "train"
        about = {"label": EMOTIONS[said["emotion"]], "split": split, "meta": {"speaker": said["speaker"]}}
        clips.append(listed(folder, f"wav/{name}", **about))
    return Read(tuple(clips))


def _with_official_class(clip: Clip) -> Clip:
    return clip.with_(label=None if clip.label is None else clip.label.replace(" ", "_"))


_ESC50 = "https://github.com/karolpiczak/ESC-50"
_FOLDS = ("fold1", "fold2", "fold3", "fold4", "fold5")
_ESC_FOLDERS = ("ESC-50", "ESC-50-master")
_ESC_WORDS = {name: name.replace("_", " ") for name in ESC50_CLASSES if "_" in name}
_MANIFEST = "a folder with sounds and manifest.csv"
_OWN_SPLIT = "the split of the manifest"

esc50 = Task(
    name="esc50",
    layout=Layout("esc50", _ESC_FOLDERS, read_esc50, _ESC50, "CC BY-NC 3.0"),
    domain="sound",
    kind="classes",
    headline="accuracy",
    splits=_FOLDS,
    prompts=_ESC_WORDS,
    recordings="freesound_id",
    folds=True,
    expected=Expected(2000, ESC50_CLASSES, "f086ccd0077af5a1e9b24171924794bf62035d67c0ff4b9249b9050ba839c062", _ESC50),
)
esc10 = Task(
    name="esc10",
    layout=Layout("esc10", _ESC_FOLDERS, read_esc10, _ESC50, "CC BY 3.0"),
    domain="sound",
    kind="classes",
    headline="accuracy",
    splits=_FOLDS,
    prompts=_ESC_WORDS,
    recordings="freesound_id",
    folds=True,
    expected=Expected(400, ESC10_CLASSES, "ed532499b0cd925cba1aab0c09ebec2dbba622e36404721d273339ff987da2d5", _ESC50),
)
_FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset"
fsdd = Task(
    name="fsdd",
    layout=Layout("fsdd", ("fsdd", "free-spoken-digit-dataset"), read_fsdd, _FSDD, "CC BY-SA 4.0"),
    domain="speech",
    kind="classes",
    headline="accuracy",
    splits=("test",),
    templates=(SAID,),
    recordings="speaker",
    expected=Expected(300, DIGITS, source=f"{_FSDD} (6 speakers, 10 digits, takes 0 to 4)"),
)
_EMODB = "http://emodb.bilderbar.info (Burkhardt et al., Interspeech 2005)"
emodb = Task(
    name="emodb",
    layout=Layout("emodb", ("emodb", "EmoDB", "Emo-DB"), read_emodb, _EMODB, "free for research, see its page"),
    domain="speech",
    kind="classes",
    headline="accuracy",
    splits=("test",),
    prompts=voices(EMOTIONS.values()),
    templates=(IN_A_VOICE,),
    recordings="speaker",
    expected=Expected(
        92,
        tuple(EMOTIONS.values()),
        "20061cd2490ea75d6810da324424a91a77162d659931fce2875d26d2f46d9bac",
        "no split is published: all takes of the speakers 03 and 09",
    ),
)
instruments = Task(
    name="instruments",
    layout=Layout("instruments", ("instruments",), read_manifest, _MANIFEST, "CC0 and CC BY, see each row"),
    domain="music",
    kind="classes",
    headline="accuracy",
    splits=("test",),
    prompts=INSTRUMENTS,
    expected=Expected(
        60, tuple(INSTRUMENTS), "75e8b12994b1b077acc19e8e5fccb639fc0c0f4f4729b740d864cf33117517ff", _OWN_SPLIT
    ),
)
_BERKLEE = Layout("berklee", ("berklee",), read_manifest, _MANIFEST, "CC BY 3.0")
berklee_classes = Task(
    name="berklee-classes",
    layout=_BERKLEE,
    domain="sound",
    kind="classes",
    headline="map",
    splits=("test",),
    expected=Expected(
        177, digest="ab4b8a1c6ffa2b484a0ba8a5e5d00cfdb96471aa97c85787cb3822890585dd25", source=_OWN_SPLIT
    ),
)
berklee = Task(
    name="berklee",
    layout=_BERKLEE,
    domain="sound",
    kind="captions",
    headline="r@1_text_to_audio",
    splits=("test",),
    expected=Expected(
        177, digest="c7428b9aedd347ed145bd08d16a3bd36d6180c13938670b38777eba01f636eb2", source=_OWN_SPLIT
    ),
)
cc_sounds = Task(
    name="cc_sounds",
    layout=Layout("cc_sounds", ("cc_sounds",), read_manifest, _MANIFEST, "Creative Commons, see each row"),
    domain="sound",
    kind="captions",
    headline="r@1_text_to_audio",
    splits=("test",),
    expected=Expected(60, digest="0c8f9dede5a3773b6dc9b421e4967d7cd9a382541d8b3c2f50fe9c3cf6d2efed", source=_OWN_SPLIT),
)
sms_sounds = Task(
    name="sms_sounds",
    layout=Layout("sms_sounds", ("sms_sounds",), read_manifest, _MANIFEST, "CC BY 4.0"),
    domain="music",
    kind="captions",
    headline="r@1_text_to_audio",
    expected=Expected(27, digest="d431614dc14b28882824fd92c8f496ff2d5678626a74648a1d783d5d9efe6a28", source=_OWN_SPLIT),
)
sonic_pi = Task(
    name="sonic_pi",
    layout=Layout("sonic_pi", ("sonic_pi",), read_manifest, _MANIFEST, "CC0 1.0"),
    domain="music",
    kind="captions",
    headline="r@1_text_to_audio",
    expected=Expected(
        195, digest="0c18490a296b4c4588ba237a5efcfe312a6ea4f8db969fe1cd74c6a8777b639b", source=_OWN_SPLIT
    ),
)

TASKS = (
    esc50,
    esc10,
    fsdd,
    emodb,
    instruments,
    berklee,
    berklee_classes,
    cc_sounds,
    sms_sounds,
    sonic_pi,
)
