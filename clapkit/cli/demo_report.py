"""The report of the demo: one page that needs nothing beside it, with sounds that can be played."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clapkit.cli.demo_figures import curve, heat_map, score_bar, spectrogram_png
from clapkit.files import atomic_file

if TYPE_CHECKING:
    from clapkit.api import Clap
    from clapkit.cli.demo import Shown
    from clapkit.data.clip import Clip
    from clapkit.evaluation.report import Result
    from clapkit.search.exact import Hit

_EXAMPLES = 6
_MATRIX_SOUNDS = 12
_HITS = 4
_CONFUSION_WORDS = "Row: what it is. Column: the class whose sentence is nearest. Darker: a larger share of the row."
_SEARCH_WORDS = "The best of {} held-out clips, with cosines. The last two queries are captions of scenes among them."
_WORDS = {
    "new clips of trained kinds": "Sounds the model has not heard, of kinds that it was trained on.",
    "held-out combinations": "Known kinds with an attribute that never went with them in training, such as a "
    "high-pitched dog bark, told apart from their opposites as well.",
    "held-out kinds": "Kinds that training never met: the model knows them through language only, and chooses among "
    "these few.",
    "retrieval": "Each caption looks for its clip in a gallery; many captions fit several clips.",
}


def write_report(path: Path, shown: Shown) -> None:
    """Write the page in one step."""
    body = "".join(
        (
            _header(shown),
            _section("Scores", _scores(shown.scores), "The thin line is the 95 % interval, the notch is chance."),
            _section("Sounds of the world", _examples(shown), "What the model sees, and what it is told about it."),
            _section("Sounds and sentences", *_similarity(shown)),
            _section("What is taken for what", _confusions(shown.scores), _CONFUSION_WORDS),
            _section("Search by words", _searches(shown), _SEARCH_WORDS.format(len(shown.index))),
            _section("Training", *_training(shown)),
        )
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>clapkit demo</title><style>{_STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
    with atomic_file(path) as file:
        file.write(page.encode())


def _section(title: str, content: str, words: str = "") -> str:
    return f"<section><h2>{escape(title)}</h2><p class='words'>{escape(words)}</p>{content}</section>"


def _header(shown: Shown) -> str:
    sizes = shown.sizes
    held_out = sum(count for split, count in sizes.items() if split != "train")
    rate = shown.clap.model.frontend.rate_hz
    return (
        "<header><h1>A small model that joins sound and language</h1><p>"
        f"<code>clapkit demo</code> made {sizes['train']:,} clips of procedural sound with captions, trained a dual "
        f"encoder on them for {shown.seconds['training']:.0f} seconds ({shown.run.steps:,} steps), and tested it on "
        f"{held_out:,} other clips. No recording and no download was used; the sentence encoder was trained before, "
        f"the audio tower started from nothing. Sound is heard at {rate / 1000:g} kHz.</p></header>"
    )


def _scores(scores: Mapping[str, Result]) -> str:
    from clapkit.cli.demo import headlines

    names = {"accuracy": "zero-shot accuracy", "r@1_text_to_audio": "text to audio, R@1"}
    names["r@10_text_to_audio"] = "text to audio, R@10"
    cards = []
    for name, metric, n, value, low, high, chance in headlines(scores):
        cards.append(
            f"<div class='card'><h3>{escape(name)}</h3><p class='metric'>{names[metric]}</p>"
            f"<p class='value'>{value:.1%}</p>{score_bar(value, low, high, chance)}"
            f"<p class='small'>{low:.1%} to {high:.1%}, chance {chance:.1%}, n = {n} clips</p>"
            f"<p class='small'>{escape(_WORDS[name])}</p></div>"
        )
    return f"<div class='cards'>{''.join(cards)}</div>"


def _examples(shown: Shown) -> str:
    singles, scenes = shown.clips["test"], shown.clips["test_scenes"]
    stated = [clip for clip in singles if clip.meta.get("combination")] or singles
    chosen = [*_spread(stated, _EXAMPLES - 2), *_spread(scenes, 2)]
    return f"<div class='clips'>{''.join(_clip(shown.clap, clip) for clip in chosen)}</div>"


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Some clips from all over the list."""
    return [clips[round(i)] for i in np.linspace(0, len(clips) - 1, min(count, len(clips)))]


def _clip(clap: Clap, clip: Clip, *, head: str = "") -> str:
    captions = "".join(f"<li>{escape(text)}</li>" for text in clip.captions[:2])
    marks = "".join(
        f"<i style='left:{e.onset_s / clip.duration_s:.1%};width:{(e.offset_s - e.onset_s) / clip.duration_s:.1%}' "
        f"title='{escape(e.label)} {e.onset_s:.2f} to {e.offset_s:.2f} s'></i>"
        for e in clip.events
        if clip.duration_s
    )
    return (
        f"<figure>{head}{_picture(clap, str(clip.audio))}<div class='events'>{marks}</div>{_player(str(clip.audio))}"
        f"<figcaption><ul>{captions}</ul></figcaption></figure>"
    )


def _picture(clap: Clap, path: str) -> str:
    """The mel frames of a sound, as the model's front-end makes them."""
    import torch

    from clapkit.audio.decode import decode

    samples = decode(path, rate_hz=clap.model.frontend.rate_hz).samples
    with torch.inference_mode():
        mel_TF = clap.model.frontend(torch.from_numpy(samples)[None].to(clap.model.device)).values[0].cpu().numpy()
    return f"<img alt='spectrogram' src='{_data(spectrogram_png(mel_TF), 'image/png')}'>"


def _player(path: str) -> str:
    """The sound inside the page: as mp3 where it can be made, because every browser plays that, else as it is."""
    import soundfile

    data, kind = Path(path).read_bytes(), "audio/flac"
    if "MP3" in soundfile.available_formats():
        samples, rate_hz = soundfile.read(path, dtype="float32")
        packed = io.BytesIO()
        soundfile.write(packed, samples, rate_hz, format="MP3")
        data, kind = packed.getvalue(), "audio/mpeg"
    return f"<audio controls preload='none' src='{_data(data, kind)}'></audio>"


def _data(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _similarity(shown: Shown) -> tuple[str, str]:
    rows = {clip.label: i for i, clip in reversed(list(enumerate(shown.gallery.clips))) if clip.label}
    chosen = [rows[label] for label in sorted(rows)][:: max(1, len(rows) // _MATRIX_SOUNDS)][:_MATRIX_SOUNDS]
    clips = [shown.gallery.clips[i] for i in chosen]
    texts = [clip.captions[0] for clip in clips]
    cosines_TS = shown.clap.embed_text(texts) @ shown.gallery.audio_ND[chosen].T
    drawn = heat_map(
        cosines_TS, rows=texts, columns=[str(c.label) for c in clips], cell=32, digits=2, framed=range(len(clips))
    )
    words = f"Cosine of {len(clips)} held-out sounds (columns) with a caption of each (rows); the frame marks its own."
    return f"<div class='wide'>{drawn}</div>", words


def _confusions(scores: Mapping[str, Result]) -> str:
    """Of the hardest task first; where nothing is mistaken a matrix shows only its diagonal."""
    parts = []
    for name, cell in (("held-out combinations", 30), ("new clips of trained kinds", 15)):
        result = scores[name]
        assert result.confusion_CC is not None
        rows = np.flatnonzero(result.confusion_CC.sum(axis=1))  # the classes that have clips
        shares = result.confusion_CC[rows] / result.confusion_CC[rows].sum(axis=1, keepdims=True)
        names = [result.class_names[row] for row in rows]
        drawn = heat_map(shares, rows=names, columns=result.class_names, cell=cell)
        parts.append(f"<h3 class='matrix'>{escape(name)}</h3><div class='wide'>{drawn}</div>")
    return "".join(parts)


def _searches(shown: Shown) -> str:
    from clapkit.cli.demo import queries

    by_path = {str(clip.audio): clip for split in ("test", "test_scenes") for clip in shown.clips[split]}
    return "".join(
        f"<h3 class='query'>{escape(query)}</h3><div class='clips four'>"
        + "".join(_hit(shown.clap, hit, by_path[str(hit.path)]) for hit in shown.index.search(text=query, k=_HITS))
        + "</div>"
        for query in queries(shown.clips)
    )


def _hit(clap: Clap, hit: Hit, clip: Clip) -> str:
    return _clip(clap, clip, head=f"<p class='score'>{hit.score:.2f}</p>")


def _training(shown: Shown) -> tuple[str, str]:
    log = [record for record in shown.run.log() if "loss" in record]
    steps, losses = [r["step"] + 1 for r in log], [r["loss"] for r in log]
    speed = float(np.median([r["clips_per_s"] for r in log]))
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in shown.seconds.items())
    words = (
        f"Loss by step, at {speed:.0f} clips a second on {platform.machine()} with {_threads()} thread(s). "
        f"Time: {took}. Space: {shown.clap.space_id}."
    )
    return curve(steps, losses, x_label="step", y_label="loss"), words


def _threads() -> int:
    import torch

    return torch.get_num_threads()


_STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf7;--card:#fff;--ink:#20242c;--soft:#646b78;--edge:#e2dfd6;--accent:#b3261e;
--deep:#1d4f91}
@media (prefers-color-scheme:dark){:root{--paper:#14161b;--card:#1d2027;--ink:#e8e6e1;--soft:#9aa1ad;--edge:#31353f;
--accent:#ff8a75;--deep:#7fb2ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:clamp(1.7rem,4vw,2.5rem);line-height:1.15;margin:0 0 .6rem;letter-spacing:-.02em}
h2{font-size:1.3rem;margin:3rem 0 .2rem}h3{font-size:1rem;margin:0}
header p{max-width:46rem;color:var(--soft);margin:0}.words{color:var(--soft);margin:0 0 1rem;max-width:46rem}
code{font-size:.92em;color:var(--ink)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:1rem}
.card,figure{background:var(--card);border:1px solid var(--edge);border-radius:12px}
.card{padding:1rem}.card h3::first-letter{text-transform:uppercase}
.metric,.small{margin:0;color:var(--soft);font-size:.8rem}
.small{margin-top:.5rem;line-height:1.4}
.value{font-size:2rem;font-weight:650;margin:.2rem 0 .3rem;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.bar{display:block;position:relative;height:10px;border-radius:5px;background:var(--edge)}
.bar span{position:absolute;top:0;height:100%}.bar .fill{left:0;background:var(--deep);border-radius:5px}
.bar .interval{top:4px;height:2px;background:var(--accent)}
.bar .chance{width:2px;top:-3px;height:16px;background:var(--ink)}
.clips{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:1rem}
.clips.four{grid-template-columns:repeat(auto-fill,minmax(min(230px,100%),1fr))}
figure{margin:0;padding:.7rem;min-width:0;position:relative}
figure img{display:block;width:100%;height:120px;border-radius:8px;image-rendering:auto}
.events{position:relative;height:5px;margin:4px 0 8px}
.events i{position:absolute;top:0;height:100%;min-width:2px;background:var(--accent);opacity:.75;border-radius:2px}
audio{width:100%;height:34px;display:block}
figcaption ul{margin:.5rem 0 0;padding:0;list-style:none;font-size:.85rem}
figcaption li+li{color:var(--soft)}
.score{position:absolute;right:1rem;top:1rem;margin:0;padding:0 .45rem;border-radius:6px;background:#000b;color:#fff;
font-size:.8rem;font-variant-numeric:tabular-nums}
.query,.matrix{margin:1.6rem 0 .5rem}.matrix::first-letter{text-transform:uppercase}
.query::before{content:"\\201C"}.query::after{content:"\\201D"}
.wide{overflow-x:auto;background:var(--card);border:1px solid var(--edge);border-radius:12px;padding:1rem}
svg text{font:10px system-ui,sans-serif;fill:var(--soft)}svg .on{fill:var(--card)}svg .off{fill:var(--ink)}
.heat{display:block;margin:0 auto}.ground{fill:var(--edge);fill-opacity:.35}
.cell{fill:var(--deep)}.framed{stroke:var(--accent);stroke-width:2}
.curve{width:100%;max-width:720px;height:auto}.grid{stroke:var(--edge)}.line{fill:none;stroke:var(--deep);stroke-width:2}
.curve text{font-size:12px}
"""
