"""The table of all kinds of sound: who plays them, how they are spoken of, what can be heard in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clapkit.building import animals, household, instruments, machines, nature
from clapkit.building.synthesis import Note
from clapkit.errors import SpecError, nearest_name

# What is stated of a sound, from axis to value: {"pitch": "high-pitched", "loudness": "quiet", "count": 3}.
Traits = Mapping[str, str | int]
Play = Callable[[Note], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """One kind of sound.

    name         its label, a noun without an article: "dog bark"
    play         makes one stroke, or one continuous stretch, from a `Note`
    does         a clause in the present tense: "a dog barks"
    doing        the same as a participle: "a dog barking"
    plural       of the name, for kinds that can be counted; empty: cannot be counted
    mass         the name takes no article: "rain", "footsteps"
    interval_s   usual time between strokes; 0: a continuous sound
    unevenness   how irregular the strokes are, as a share of the interval
    axes         which of "pitch", "tempo", "count", "length" are audible here (loudness always is)
    """

    name: str
    play: Play
    does: str
    doing: str
    plural: str = ""
    mass: bool = False
    interval_s: float = 0.0
    unevenness: float = 0.05
    axes: tuple[str, ...] = ()

    @property
    def continuous(self) -> bool:
        """True for one unbroken sound, False for a series of strokes."""
        return self.interval_s == 0.0


_STROKE = ("pitch", "tempo", "count")
_HELD = ("pitch", "length")


def _strokes(
    name: str,
    play: Play,
    does: str,
    doing: str,
    plural: str,
    interval_s: float,
    axes: tuple[str, ...] = _STROKE,
    **more: Any,
) -> Kind:
    return Kind(name, play, does, doing, plural=plural, interval_s=interval_s, axes=axes, **more)


def _mass(name: str, play: Play, does: str, doing: str, axes: tuple[str, ...] = ("length",), **more: Any) -> Kind:
    return Kind(name, play, does, doing, mass=True, axes=axes, **more)


KINDS: tuple[Kind, ...] = (
    # instruments
    _strokes(
        "church bell",
        instruments.church_bell,
        "a church bell tolls",
        "a church bell tolling",
        "church bells",
        1.1,
        ("pitch", "count"),
    ),
    _strokes(
        "bicycle bell",
        instruments.bicycle_bell,
        "a bicycle bell rings",
        "a bicycle bell ringing",
        "bicycle bells",
        0.95,
        ("pitch", "count"),
    ),
    _strokes(
        "guitar pluck",
        instruments.guitar_string,
        "a guitar string is plucked",
        "a guitar string being plucked",
        "guitar plucks",
        0.6,
    ),
    Kind("violin", instruments.violin, "a violin plays a note", "a violin playing a note", axes=_HELD),
    _strokes(
        "xylophone note",
        instruments.xylophone,
        "a xylophone is struck",
        "a xylophone being struck",
        "xylophone notes",
        0.5,
    ),
    _strokes(
        "kick drum",
        instruments.kick_drum,
        "a kick drum beats",
        "a kick drum beating",
        "kick drum beats",
        0.55,
        ("tempo", "count"),
    ),
    _strokes(
        "snare drum",
        instruments.snare_drum,
        "a snare drum is hit",
        "a snare drum being hit",
        "snare drum hits",
        0.5,
        ("tempo", "count"),
    ),
    _strokes(
        "hi-hat",
        instruments.hi_hat,
        "a hi-hat is struck",
        "a hi-hat being struck",
        "hi-hat strokes",
        0.45,
        ("tempo", "count"),
    ),
    Kind("human whistle", instruments.human_whistle, "someone whistles", "someone whistling", axes=_HELD),
    # household
    _strokes(
        "door knock", household.door_knock, "someone knocks on a door", "someone knocking on a door", "door knocks", 0.5
    ),
    _mass(
        "footsteps",
        household.footsteps,
        "someone walks",
        "someone walking",
        ("tempo",),
        interval_s=0.6,
        unevenness=0.06,
    ),
    _strokes(
        "hand clap",
        household.hand_clap,
        "someone claps their hands",
        "someone clapping their hands",
        "hand claps",
        0.5,
        ("tempo", "count"),
    ),
    _mass(
        "clock ticking",
        household.clock_ticking,
        "a clock ticks",
        "a clock ticking away",
        ("tempo",),
        interval_s=0.5,
        unevenness=0.005,
    ),
    _mass(
        "keyboard typing",
        household.keyboard_typing,
        "someone types on a keyboard",
        "someone typing on a keyboard",
        ("tempo",),
        interval_s=0.24,
        unevenness=0.3,
    ),
    _strokes(
        "glass breaking", household.glass_breaking, "glass breaks", "glass breaking into pieces", "", 1.6, (), mass=True
    ),
    Kind("door creak", household.door_creak, "a door creaks", "a door creaking", axes=_HELD),
    _strokes("water drip", household.water_drip, "water drips", "water dripping", "water drips", 0.55, unevenness=0.08),
    # animals
    _strokes("dog bark", animals.dog_bark, "a dog barks", "a dog barking", "dog barks", 0.6),
    _strokes("cat meow", animals.cat_meow, "a cat meows", "a cat meowing", "cat meows", 1.1, ("pitch", "count")),
    _strokes("cow moo", animals.cow_moo, "a cow moos", "a cow mooing", "cow moos", 1.7, ("pitch", "count")),
    _strokes(
        "sheep bleat",
        animals.sheep_bleat,
        "a sheep bleats",
        "a sheep bleating",
        "sheep bleats",
        1.05,
        ("pitch", "count"),
    ),
    _strokes("crow caw", animals.crow_caw, "a crow caws", "a crow cawing", "crow caws", 0.7, ("pitch", "count")),
    _strokes(
        "frog croak", animals.frog_croak, "a frog croaks", "a frog croaking", "frog croaks", 0.75, ("pitch", "count")
    ),
    _strokes("bird chirp", animals.bird_chirp, "a bird chirps", "a bird chirping", "bird chirps", 0.8, unevenness=0.1),
    _strokes("owl hoot", animals.owl_hoot, "an owl hoots", "an owl hooting", "owl hoots", 0.95, ("pitch", "count")),
    _mass("crickets", animals.crickets, "crickets chirp", "crickets chirping", ("tempo", "length")),
    _mass("bee buzzing", animals.bee_buzzing, "a bee buzzes around", "a bee buzzing around", _HELD),
    # machines
    Kind("siren", machines.siren, "a siren wails", "a siren wailing", axes=("pitch", "tempo")),
    Kind("car engine", machines.car_engine, "a car engine runs", "a car engine running", axes=_HELD),
    _strokes(
        "alarm beep", machines.alarm_beep, "an alarm beeps", "an alarm beeping", "alarm beeps", 0.5, unevenness=0.0
    ),
    _strokes(
        "telephone ring",
        machines.telephone_ring,
        "a telephone rings",
        "a telephone ringing",
        "telephone rings",
        1.0,
        ("pitch", "count"),
        unevenness=0.0,
    ),
    _strokes("laser zap", machines.laser_zap, "a laser zaps", "a laser zapping", "laser zaps", 0.5),
    _strokes("car horn", machines.car_horn, "a car honks", "a car honking", "car horns", 0.7, ("pitch", "count")),
    Kind("train whistle", machines.train_whistle, "a train whistles", "a train whistling", axes=_HELD),
    Kind(
        "helicopter", machines.helicopter, "a helicopter flies by", "a helicopter flying by", axes=("tempo", "length")
    ),
    Kind("vacuum cleaner", machines.vacuum_cleaner, "a vacuum cleaner runs", "a vacuum cleaner running", axes=_HELD),
    # nature
    _mass("rain", nature.rain, "rain falls", "rain falling"),
    _mass("wind", nature.wind, "wind blows", "wind blowing", ("pitch", "length")),
    _mass("ocean waves", nature.ocean_waves, "waves roll onto a beach", "waves rolling onto a beach", ()),
    _mass("thunder", nature.thunder, "thunder rolls", "thunder rolling", ("length",)),
    Kind("running stream", nature.stream, "a stream bubbles", "a stream bubbling along", axes=("length",)),
    Kind("crackling fire", nature.fire_crackling, "a fire crackles", "a fire crackling", axes=("length",)),
)

NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)
_BY_NAME = {kind.name: kind for kind in KINDS}


def kind_named(name: str) -> Kind:
    """The kind with this label; SpecError with the nearest label when there is none."""
    if name not in _BY_NAME:
        raise SpecError(f"the sound world has no kind '{name}'; {nearest_name(name, NAMES)}")
    return _BY_NAME[name]
