"""The public checkpoints that this library knows by a short name: `clapkit.load("laion-630k-audioset")`.

A short name stands for one file or folder of one repository on the Hugging Face hub. Checkpoints that are published
elsewhere are downloaded by hand and loaded by path; docs/checkpoints.md lists them too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True)
class Known:
    """Where a public checkpoint lies.

    repository  on the hub;  file  in it, or None: the whole folder
    family      importer that reads it
    about       what it was trained on, or how it differs from its neighbours
    warning     what is wrong with the published file, or None
    """

    repository: str
    file: str | None
    family: str
    about: str
    warning: str | None = None


_LAION = "lukewys/laion_clap"

KNOWN: Mapping[str, Known] = MappingProxyType(
    {
        "laion-630k": Known(_LAION, "630k-best.pt", "laion", "LAION-Audio-630K, clips up to 10 s"),
        "laion-630k-audioset": Known(_LAION, "630k-audioset-best.pt", "laion", "the same and AudioSet"),
        "laion-630k-fusion": Known(_LAION, "630k-fusion-best.pt", "laion", "LAION-Audio-630K, feature fusion"),
        "laion-630k-audioset-fusion": Known(
            _LAION, "630k-audioset-fusion-best.pt", "laion", "the same and AudioSet, feature fusion"
        ),
        "laion-music-audioset": Known(
            _LAION, "music_audioset_epoch_15_esc_90.14.pt", "laion", "music and AudioSet, HTSAT-base"
        ),
        "laion-music-speech": Known(
            _LAION, "music_speech_epoch_15_esc_89.25.pt", "laion", "music and speech, HTSAT-base"
        ),
        "laion-music-speech-audioset": Known(
            _LAION, "music_speech_audioset_epoch_15_esc_89.98.pt", "laion", "music, speech and AudioSet, HTSAT-base"
        ),
        "hf-clap-unfused": Known("laion/clap-htsat-unfused", None, "transformers", "port of laion-630k-audioset"),
        "hf-clap-fused": Known("laion/clap-htsat-fused", None, "transformers", "port of laion-630k-audioset-fusion"),
        "hf-clap-general": Known("laion/larger_clap_general", None, "transformers", "larger: general sound"),
        "hf-clap-music": Known(
            "laion/larger_clap_music",
            None,
            "transformers",
            "larger: music",
            warning="all its text vectors are almost alike (cosine 0.999): use laion-music-audioset",
        ),
        "hf-clap-music-speech": Known(
            "laion/larger_clap_music_and_speech", None, "transformers", "larger: music and speech"
        ),
        "msclap-2022": Known("microsoft/msclap", "CLAP_weights_2022.pth", "msclap", "128 k pairs, CNN14 and BERT"),
        "msclap-2023": Known("microsoft/msclap", "CLAP_weights_2023.pth", "msclap", "4.6 M pairs, HTSAT and GPT-2"),
        "msclap-clapcap": Known(
            "microsoft/msclap", "clapcap_weights_2023.pth", "clapcap", "the audio side of the caption writer"
        ),
        "openflam": Known("kechenadobe/OpenFLAM", "open_flam_oct17.pth", "flam", "frame-wise, HTSAT-base"),
    }
)

# How the Hugging Face cache keeps a file: the repository, a commit of it, the path in it.
_IN_CACHE = re.compile(r"(?:^|/)models--(?P<repository>[^/]+)/snapshots/[^/]+(?:/(?P<file>.+))?$")


def short_name(path: str | os.PathLike) -> str | None:
    """The short name of what lies at `path` in a Hugging Face cache, where every download by name ends.

    None for any other path: a file that was renamed or moved says nothing about where it came from.
    """
    found = _IN_CACHE.search(Path(path).as_posix())
    if found is None:
        return None
    for name, known in KNOWN.items():
        same = found["repository"] == known.repository.replace("/", "--")
        if same and (known.file is None or found["file"] == known.file):
            return name
    return None
