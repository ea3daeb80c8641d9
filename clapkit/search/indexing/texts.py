"""Texts that stand for what people will ask a library: its labels, tags and captions, and words for everyday sounds.

Hubs are held back, and a vector index is set, by vectors of such texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np

from clapkit.errors import SearchIndexError
from clapkit.search import view as views
from clapkit.search.place import Tuning
from clapkit.search.store import Store
from clapkit.search.tuning import tune
from clapkit.search.view import View

_FILES = 20_000
_EVERYDAY = """
a dog barking; a cat meowing; birds singing; a cow; a rooster crowing; insects at night; frogs; a horse galloping;
rain falling; thunder; strong wind; waves on a beach; a stream; a crackling fire; dripping water; footsteps on gravel;
footsteps on wood; a door closing; a door creaking; keys jingling; a clock ticking; an alarm; a telephone ringing;
typing on a keyboard; a mouse click; glass breaking; cutlery and dishes; pouring a drink; chopping food; frying;
a vacuum cleaner; a washing machine; a hair dryer; a toilet flushing; brushing teeth; a zipper; paper crumpling;
a person talking; a crowd talking; a child laughing; a baby crying; coughing; sneezing; snoring; breathing; whispering;
shouting; applause; cheering; singing; a choir; a man's voice; a woman's voice; an announcement;
a car passing; a car horn; an engine starting; a motorcycle; a truck; a train; a siren; a helicopter; an aeroplane;
a bicycle bell; traffic; a drill; a saw; a hammer; a machine humming; an explosion; a gunshot; fireworks;
a piano; a guitar; an electric guitar; a violin; a flute; a trumpet; a drum beat; a snare drum; a kick drum; a cymbal;
a bass line; a synthesizer; an organ; a bell; a music box; electronic music; classical music; a jazz band;
a beep; a whoosh; a click; a low rumble; a high tone; static noise; silence; an echo in a hall
"""


def texts_like_queries(view: View, *, limit: int = 256) -> list[str]:
    """At most `limit` texts, each once: labels, tags, captions and names of files, the same for the same library.

    They are taken evenly from what there is; words for everyday sounds come before the names of files. Of a large
    library some thousand files are looked at.
    """
    about = view.about(limit=_FILES)
    told = [metadata.get(key) for _, metadata in about.values() for key in ("label", "caption")]
    said = [str(text).splitlines()[0] for text in told if text]
    tags = [tag for found, _ in about.values() for tag in found]
    everyday = [" ".join(text.split()) for text in _EVERYDAY.split(";")]
    names = [_words(file) for file in sorted(about)]
    texts = _evenly([*tags, *said], limit)
    for more in (everyday, names):
        texts = list(dict.fromkeys([*texts, *_evenly(more, max(0, limit - len(texts)))]))
    return texts[:limit]


def tune_if_large(store: Store, queries: Callable[[Sequence[str]], np.ndarray]) -> Tuning | None:
    """Build the vector index of a store that is too large to compare every row; None where there is nothing to do.

    It is built anew when there are twice as many rows as when it was built. `queries` makes vectors of texts.
    SearchIndexError where no setting finds enough: then every row is compared, as before.
    """
    tuning = store.view.space.tuning
    if len(store) <= views.EXACT_ROWS or (tuning is not None and len(store) < 2 * tuning.rows):
        return None
    try:
        return tune(store, queries_QD=queries(texts_like_queries(store.view, limit=100)))
    except SearchIndexError as error:
        raise SearchIndexError(f"{error}. Until then every row is compared, which takes longer") from error


def _evenly(texts: Sequence[str], limit: int) -> list[str]:
    distinct = sorted({text.strip() for text in texts if text.strip()})
    if len(distinct) <= limit:
        return distinct
    return [distinct[int(n)] for n in np.linspace(0, len(distinct) - 1, limit)] if limit else []


def _words(file: str) -> str:
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W\d_]+", " ", PurePosixPath(file).stem)
    return " ".join(stem.split()).lower()
