"""clapkit: language-audio contrastive pretraining. Train, load, use and evaluate models that join sound and language.

The public names are imported on first use, so that `import clapkit` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

_PLACES = {
    "AudioError": "clapkit.errors",
    "AudioErrors": "clapkit.errors",
    "Clap": "clapkit.api",
    "ClapkitError": "clapkit.errors",
    "Clip": "clapkit.data.clip",
    "DualEncoder": "clapkit.model",
    "Hit": "clapkit.search.exact",
    "Index": "clapkit.library",
    "Recipe": "clapkit.recipe",
    "Spec": "clapkit.spec",
    "decode": "clapkit.audio.decode",
    "load": "clapkit.api",
    "spec": "clapkit.spec",
    "train": "clapkit.api",
}

__all__ = [*sorted(_PLACES), "__version__"]

if TYPE_CHECKING:
    from clapkit.api import Clap as Clap
    from clapkit.api import load as load
    from clapkit.api import train as train
    from clapkit.audio.decode import decode as decode
    from clapkit.data.clip import Clip as Clip
    from clapkit.errors import AudioError as AudioError
    from clapkit.errors import AudioErrors as AudioErrors
    from clapkit.errors import ClapkitError as ClapkitError
    from clapkit.library import Index as Index
    from clapkit.model import DualEncoder as DualEncoder
    from clapkit.recipe import Recipe as Recipe
    from clapkit.search.exact import Hit as Hit
    from clapkit.spec import Spec as Spec
    from clapkit.spec import spec as spec


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'clapkit' has no attribute '{name}'")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
