"""The one table of what can be recognised, most particular first: the first that recognises a file reads it."""

from __future__ import annotations

from clapkit.checkpoints.base import Importer
from clapkit.checkpoints.families import (
    audio_towers,
    flam,
    glap,
    hf,
    laion,
    m2d,
    microsoft,
    open_clip,
    panns,
    tinyclap,
    wav2clip,
)

IMPORTERS: tuple[Importer, ...] = (
    *laion.IMPORTERS,
    *flam.IMPORTERS,
    *hf.IMPORTERS,
    *open_clip.IMPORTERS,
    *microsoft.IMPORTERS,
    *m2d.IMPORTERS,
    *glap.IMPORTERS,
    *tinyclap.IMPORTERS,
    *wav2clip.IMPORTERS,
    *panns.IMPORTERS,
    *audio_towers.IMPORTERS,
)
