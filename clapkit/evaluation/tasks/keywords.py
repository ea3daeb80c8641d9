"""Single spoken words: Speech Commands, all 35 words and the ten commands with "unknown" and "silence".

Warden 2018, https://arxiv.org/abs/1804.03209.
"""

from __future__ import annotations

from pathlib import Path

from clapkit.evaluation.task import Expected, Layout, Read, Task
from clapkit.evaluation.tasks.listing import listed, names, present, refuse, sounds, text_of

WORDS = names(
    "backward, bed, bird, cat, dog, down, eight, five, follow, forward, four, go, happy, house, learn, left, marvin",
    "nine, no, off, on, one, right, seven, sheila, six, stop, three, tree, two, up, visual, wow, yes, zero",
)
COMMANDS = names("down, go, left, no, off, on, right, stop, up, yes")
SAID = "a person saying the word {}"
_LISTS = {"testing_list.txt": "test", "validation_list.txt": "validation"}


def read_words(folder: Path) -> Read:
    """<word>/<speaker>_nohash_<take>.wav; what testing_list.txt and validation_list.txt do not name is for training."""
    place = folder if (folder / "testing_list.txt").is_file() else folder / "speech_commands_v0.02"
    if not (place / "testing_list.txt").is_file():
        refuse(folder, "testing_list.txt, with a folder for each word")
    splits = {
        line.strip(): split
        for name, split in _LISTS.items()
        if (place / name).is_file()
        for line in text_of(place / name).splitlines()
        if line.strip()
    }
    rest = [name for name in sounds(place) if name not in splits and "/" in name and not name.startswith("_")]
    within = place.relative_to(folder)
    return present(
        listed(
            folder,
            (within / name).as_posix(),
            label=name.split("/")[0],
            split=splits.get(name, "train"),
            meta={"speaker": _speaker(name)},
        )
        for name in (*splits, *rest)
    )


def read_commands(folder: Path) -> Read:
    """The test archive: a folder for each of the ten commands, _silence_, and _unknown_ with the word in the name."""
    if not (folder / "_unknown_").is_dir():
        refuse(folder, "the folders _unknown_ and _silence_ and one for each of the ten commands")
    return Read(
        tuple(
            listed(folder, name, label=name.split("/")[0], split="test", meta={"speaker": _speaker(name)})
            for name in sounds(folder)
            if "/" in name
        )
    )


def _speaker(name: str) -> str:
    """0c540988 of backward_0c540988_nohash_0.wav. Silence has no speaker: each such file stands for itself."""
    stem = Path(name).stem
    return stem.split("_nohash_")[0].rpartition("_")[-1] if "_nohash_" in stem else name


_PAPER = "https://arxiv.org/abs/1804.03209"
_CATALOGUE = "https://www.tensorflow.org/datasets/catalog/speech_commands"
_ARCHIVE = f"{_CATALOGUE}, https://huggingface.co/datasets/google/speech_commands"


def _commands(name: str, version: str, clips: int) -> Task:
    return Task(
        name=name,
        layout=Layout(name, (f"speech_commands_test_set_{version}",), read_commands, _ARCHIVE, "CC BY 4.0"),
        domain="speech",
        kind="classes",
        headline="accuracy",
        splits=("test",),
        prompts={
            **{word: SAID.format(word) for word in COMMANDS},
            "_unknown_": "a person saying another word",
            "_silence_": "background noise without speech",
        },
        templates=("{}",),
        recordings="speaker",
        expected=Expected(clips, (*COMMANDS, "_unknown_", "_silence_"), source=_ARCHIVE),
    )


TASKS = (
    Task(
        name="speech-commands",
        layout=Layout(
            "speech-commands",
            ("speech_commands_v0.02", "SpeechCommands", "speech_commands"),
            read_words,
            _PAPER,
            "CC BY 4.0",
        ),
        domain="speech",
        kind="classes",
        headline="accuracy",
        splits=("test",),
        templates=(SAID,),
        recordings="speaker",
        expected=Expected(11005, WORDS, source=_PAPER),
    ),
    _commands("speech-commands-12", "v0.02", 4890),
    _commands("speech-commands-12-v1", "v0.01", 3081),
)
