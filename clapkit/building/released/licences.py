"""Which clips may teach weights that are given away: chosen by the licence that a manifest states, never by hand."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clapkit.data.clip import Clip
from clapkit.data.manifest import read
from clapkit.errors import DataError, nearest_name

Variant = Literal["released", "research"]
HELD_OUT = ("fold5", "test")
SPEECH = ("emodb", "fsdd")

# Conditions that a given-away model cannot promise to keep: no commerce, no changes, or the same licence again.
_CONDITIONS = re.compile(r"\b(nc|nd|sa|sampling\+?|non[- ]?commercial|academic|gpl)\b", re.IGNORECASE)
_FREE = re.compile(r"\bcc[ -]?0\b|\bcc[ -]by\b|\bmit\b|\bpublic domain\b", re.IGNORECASE)
# A licence that the manifest itself doubts is none.
_DOUBTED = re.compile(r"\bunverified\b", re.IGNORECASE)


def allows(licence: str) -> bool:
    """Whether sound or text of this licence may be in released weights: CC0, CC BY, MIT, public domain.

    Where a clip has a licence of its own inside a collection ("dataset CC BY-NC 3.0; clip CC0 by ..."), that of the
    clip counts. Share-alike, non-commercial, no-derivatives and Sampling+ do not pass, nor what is "unverified".
    """
    own = re.search(r"\bclip\s+(.*)", licence)
    # The name of an author may hold anything; the licence stands before it.
    stated = re.split(r" by |https?://", own.group(1) if own else licence)[0]
    return bool(_FREE.search(stated)) and not _CONDITIONS.search(stated) and not _DOUBTED.search(licence)


@dataclass(frozen=True)
class Selection:
    """What a variant is trained on.

    clips         with `meta["set"]`, the folder that each comes from
    left_out      how many clips of each set were not taken, by reason
    attributions  one line for each author or collection whose sound is in it, as the licences ask
    """

    clips: tuple[Clip, ...]
    left_out: dict[str, dict[str, int]]
    attributions: tuple[str, ...]

    def count(self) -> dict[str, int]:
        """Clips of each set."""
        return dict(sorted(Counter(clip.meta["set"] for clip in self.clips).items()))


def select(
    clips_of_sets: Mapping[str, Sequence[Clip]],
    *,
    variant: Variant,
    held_out: Sequence[str] = HELD_OUT,
    only_captions: Sequence[str] = SPEECH,
) -> Selection:
    """The clips that a variant may hear: of their licence ("released"), or all ("research"); never a held-out split.

    clips_of_sets  the clips of each set as their manifest has them, its column licence in `Clip.meta`
    held_out       splits that no variant hears, in any set
    only_captions  sets whose labels say a word or a mood and name no sound: their captions alone are used

    DataError for an unknown variant, and for a set none of whose clips states a licence.
    """
    if variant not in get_args(Variant):
        raise DataError(f"there is no variant '{variant}'; {nearest_name(variant, get_args(Variant))}")
    taken: list[Clip] = []
    left_out: dict[str, dict[str, int]] = {}
    for name, clips in clips_of_sets.items():
        licences = [str(clip.meta.get("licence") or "") for clip in clips]
        if clips and not any(licences):
            raise DataError(f"no clip of '{name}' states a licence: its manifest needs a column 'licence'")
        for clip, licence in zip(clips, licences, strict=True):
            reason = "held out" if clip.split in held_out else "licence" if not allows(licence) else None
            if reason == "licence" and variant == "research":
                reason = None
            if reason:
                reasons = left_out.setdefault(name, {})
                reasons[reason] = reasons.get(reason, 0) + 1
            else:
                label = None if name in only_captions else clip.label
                taken.append(clip.with_(id=f"{name}/{clip.id}", label=label, meta={**clip.meta, "set": name}))
    return Selection(tuple(taken), left_out, tuple(sorted({_attribution(clip) for clip in taken})))


def _attribution(clip: Clip) -> str:
    """Set, title where there is one, licence with its author, and where the original is."""
    parts = (clip.meta["set"], clip.meta.get("title"), clip.meta.get("licence"), clip.meta.get("url"))
    return " | ".join(str(part) for part in parts if part)


def sets_in(folder: str | os.PathLike) -> dict[str, tuple[Clip, ...]]:
    """The clips of every `NAME/manifest.csv` in a folder, by NAME. DataError where there is none."""
    found = sorted(Path(folder).glob("*/manifest.csv"))
    if not found:
        raise DataError(f"{folder} holds no set of sounds: expected folders with a manifest.csv")
    return {path.parent.name: read(path).clips for path in found}
