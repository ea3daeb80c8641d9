"""How a page looks and what it does: a style sheet for light, dark and paper, and a small script that may be absent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

# Blue for sound and orange for text are told apart with any kind of colour blindness; shapes differ as well.
LIGHT = {
    "paper": "#ffffff",
    "card": "#f6f7f9",
    "ink": "#1a1d23",
    "soft": "#545b69",
    "edge": "#d3d7de",
    "sound": "#0b5fa5",
    "text": "#a84300",
    "good": "#17683a",
    "warn": "#764600",
    "warn-ground": "#fff0d2",
}
DARK = {
    "paper": "#14161b",
    "card": "#1d2027",
    "ink": "#e9e7e2",
    "soft": "#a6adba",
    "edge": "#3a404c",
    "sound": "#79b8ff",
    "text": "#ffa666",
    "good": "#7ddc9d",
    "warn": "#ffd28a",
    "warn-ground": "#3a2c10",
}


LEVELS = 10  # strengths of colour in a matrix
_MATRICES = {"confusion": "sound", "similarity": "text"}  # the colour of each kind


def opacity(kind: str, step: int) -> float:
    """Of a cell of strength `step` of LEVELS.

    A tenth of the clips of a class has to be seen, so weak confusions are lifted; of cosines most lie in the middle,
    and the strong ones have to stand out.
    """
    return round((step / LEVELS) ** (0.7 if kind == "confusion" else 1.4), 2)


def contrast(one: str, other: str) -> float:
    """The ratio of contrast of two colours "#rrggbb", from 1 to 21 (WCAG 2)."""
    low, high = sorted(_luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def cell_colour(table: Mapping[str, str], kind: str, step: int) -> str:
    """What a cell of a matrix looks like on its ground."""
    share, mixed = opacity(kind, step), ""
    for over, under in zip(_channels(table[_MATRICES[kind]]), _channels(table["card"]), strict=True):
        mixed += f"{round(255 * (share * over + (1 - share) * under)):02x}"
    return f"#{mixed}"


def _colours(table: Mapping[str, str]) -> str:
    """Every colour as a variable; numbers in cells are black or white, whichever is read better there."""
    numbers = {
        f"{kind}{step}": max("#000000", "#ffffff", key=lambda c: contrast(c, cell_colour(table, kind, step)))
        for kind in _MATRICES
        for step in range(LEVELS + 1)
    }
    return "".join(f"--{name}:{colour};" for name, colour in {**table, **numbers}.items())


_NUMBERS = "".join(f".{k} .v{s}{{fill:var(--{k}{s})}}" for k in _MATRICES for s in range(LEVELS + 1))
_SHAPE = """
*{box-sizing:border-box}svg{display:block}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main,header,nav,footer{max-width:1120px;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.2rem}footer{padding-bottom:3rem;color:var(--soft);font-size:.85rem}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.2;margin:0 0 .8rem;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.45rem;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h3{font-size:1.05rem;margin:2rem 0 .2rem}h4{font-size:.92rem;margin:1rem 0 .3rem}
p{margin:.3rem 0 .7rem;max-width:46rem}.words,.silent,.readout{color:var(--soft);font-size:.9rem}
.silent{margin:.2rem 0;overflow-wrap:anywhere}
a{color:var(--sound)}code{font-size:.88em;overflow-wrap:anywhere}
:focus-visible{outline:3px solid var(--text);outline-offset:2px;border-radius:3px}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--paper);padding:.5rem}
.theme{float:right;font:inherit;font-size:.85rem;color:var(--ink);background:var(--card);border:1px solid var(--soft);
border-radius:8px;padding:.3rem .8rem;margin-left:1rem;cursor:pointer}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1.2rem;margin:0 0 1rem;font-size:.92rem}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.35rem .5rem;padding:0;margin:1rem 0 0}
nav a{display:block;padding:.15rem .7rem;border:1px solid var(--edge);border-radius:99px;text-decoration:none;
font-size:.88rem;background:var(--card);overflow-wrap:anywhere}
section{margin:3rem 0 0}section.task{border-top:2px solid var(--ink);padding-top:1rem}
.chips{display:flex;flex-wrap:wrap;gap:.35rem .5rem;margin:.5rem 0 .6rem;padding:0;list-style:none;font-size:.82rem}
.chip{border:1px solid var(--edge);border-radius:99px;padding:.05rem .65rem;color:var(--soft);white-space:nowrap}
.chip.good{color:var(--good);border-color:currentColor}
.chip.warn{color:var(--warn);background:var(--warn-ground);border-color:currentColor}
.note{background:var(--warn-ground);color:var(--warn);border-radius:8px;padding:.5rem .9rem;margin:.5rem 0 1rem;
font-size:.9rem;overflow-wrap:anywhere}.note ul{margin:.2rem 0;padding-left:1.1rem}
.big{display:flex;flex-wrap:wrap;align-items:baseline;gap:.1rem .9rem;margin:.2rem 0 .4rem}
.big b{font-size:2.3rem;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.big span{color:var(--soft)}
.wide{overflow-x:auto;max-width:100%;border:1px solid var(--edge);border-radius:10px;background:var(--paper)}
table{border-collapse:collapse;font-size:.88rem;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .7rem;border-bottom:1px solid var(--edge);vertical-align:middle;white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}thead th{color:var(--soft);font-weight:500}
tbody th{font-weight:600}td.number,th.number{text-align:right}td.picture,th.picture{padding:0 .3rem}
td .chip{display:inline-block;margin:.1rem .2rem .1rem 0}tr.checked>*{color:var(--soft);font-weight:400}
td.told{white-space:normal;min-width:11rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;padding:0;margin:.5rem 0 0;list-style:none;font-size:.85rem;
color:var(--soft)}.legend svg{display:inline-block;vertical-align:middle;margin-right:.35rem}
td small,th small{display:block;color:var(--soft);font-size:.78rem;font-weight:400}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:0 2rem}
.beside{display:flex;flex-wrap:wrap;gap:0 2.5rem}.beside>*{min-width:0}
.bars{columns:2;column-gap:2.2rem;list-style:none;padding:0;margin:.6rem 0;font-size:.84rem}
.bars li{display:grid;grid-template-columns:minmax(0,8.5rem) 1fr 3.6rem 2.6rem;gap:.5rem;align-items:center;
break-inside:avoid;padding:.07rem 0;font-variant-numeric:tabular-nums}
.bars .name{text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bars .n{color:var(--soft)}.bars .value{text-align:right}
.bar{position:relative;height:10px;background:var(--edge);border-radius:2px}
.bar i{position:absolute;top:0;height:100%;left:0;background:var(--sound);border-radius:2px}
.bar b{position:absolute;top:4px;height:2px;background:var(--ink)}
.queries{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:1rem;
padding:0;margin:.6rem 0;list-style:none}
.queries>li{border:1px solid var(--edge);border-radius:10px;padding:.7rem .9rem;background:var(--card);min-width:0}
.queries h4{margin:0;overflow-wrap:anywhere}.queries ol{padding:0;margin:.4rem 0 0;list-style:none}
.queries ol li{border-top:1px solid var(--edge);padding:.35rem 0;font-size:.86rem}
.hit{display:flex;gap:.6rem;align-items:baseline}.hit .what{flex:1;min-width:5rem;overflow-wrap:anywhere}
.hit .cosine{font-variant-numeric:tabular-nums;color:var(--soft)}.hit .right{color:var(--good);font-weight:600}
audio{width:100%;height:34px;display:block;margin-top:.25rem}
details{margin:.8rem 0}summary{cursor:pointer;color:var(--sound);font-size:.92rem;margin-bottom:.4rem}
.mistakes{columns:2;column-gap:2.2rem;font-size:.88rem;margin:.2rem 0;padding-left:1.1rem}
.mistakes li{break-inside:avoid;overflow-wrap:anywhere}
.radar,.plot{max-width:100%;height:auto}.matrix{margin:.6rem auto}
svg text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--ink);unicode-bidi:isolate}
.dots text,.plot text,.small{fill:var(--soft)}.dots text{font-size:11px}.matrix text{font-size:11px}
.matrix .side{fill:var(--soft);font-size:11px}
.grid{fill:none;stroke:var(--edge)}.whisker{fill:none;stroke:var(--sound);stroke-width:2}
.chance{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:3 2}.control{fill:none;stroke:var(--text);stroke-width:1.8}
.dot{fill:var(--sound)}.ring{fill:var(--paper);stroke:var(--sound);stroke-width:1.5}
.area{fill:var(--sound);fill-opacity:.18;stroke:var(--sound);stroke-width:2}
.ideal{stroke:var(--soft);stroke-dasharray:4 4}
.line0,.line1{fill:none;stroke-width:2}.line0{stroke:var(--sound)}.line1{stroke:var(--text)}.thin{stroke-width:1;opacity:.7}
.fill0{fill:var(--sound)}.fill1{fill:var(--text)}
.sounds{fill:none;stroke:var(--sound);stroke-width:4.5;stroke-linecap:round;stroke-opacity:.5}
.texts{fill:var(--text);stroke:var(--paper);stroke-width:.8}
.gap{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 3}.centre{fill:none;stroke:var(--ink);stroke-width:2}
.ground{fill:var(--card);stroke:var(--edge)}.q{fill:var(--sound)}.similarity .q{fill:var(--text)}
.diagonal{fill:none;stroke:var(--soft);stroke-width:.7}.cursor{fill:none;stroke:var(--ink);stroke-width:2.5}
.readout{min-height:1.5em;margin:.3rem 0 0}
@media (max-width:640px){body{font-size:15px}.bars,.mistakes{columns:1}
.facts{gap:.1rem .8rem}.dots{width:175px;height:18px}
.table tbody th,.table thead th:first-child{position:sticky;left:0;background:var(--paper);max-width:8.2rem;
min-width:6.8rem;white-space:normal;overflow-wrap:break-word}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{.theme,nav,.readout,.skip,audio{display:none!important}body{font-size:10pt;background:#fff}
main,header,footer{max-width:none;padding:0}.wide{overflow:visible;border:0}
section.task{break-before:page}svg,.queries>li,.bars li,tr{break-inside:avoid}
.matrix{max-width:100%;height:auto}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
th,td{white-space:normal;padding:.15rem .3rem}}
"""

_DARK = f"color-scheme:dark;{_colours(DARK)}"
STYLE = (
    f":root{{color-scheme:light;{_colours(LIGHT)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{_DARK}}}}}"
    f"@media screen{{:root[data-theme=dark]{{{_DARK}}}}}"
    f"{_SHAPE}{_NUMBERS}"
)

SCRIPT = """
(() => {
  const root = document.documentElement, button = document.querySelector('.theme');
  const system = matchMedia('(prefers-color-scheme: dark)');
  const dark = () => root.dataset.theme ? root.dataset.theme === 'dark' : system.matches;
  const name = () => { button.textContent = dark() ? 'Light page' : 'Dark page'; };
  button.hidden = false;
  button.addEventListener('click', () => { root.dataset.theme = dark() ? 'light' : 'dark'; name(); });
  system.addEventListener('change', name);
  name();

  const players = () => document.querySelectorAll('audio');
  document.addEventListener('play', event => {
    for (const player of players()) if (player !== event.target) player.pause();
  }, true);
  document.addEventListener('error', event => {
    if (event.target.tagName !== 'AUDIO' || event.target.dataset.told) return;
    event.target.dataset.told = '1';
    const line = document.createElement('p');
    line.className = 'silent';
    line.textContent = 'This sound cannot be played: its file has moved, or the browser does not know its format.';
    event.target.after(line);
  }, true);

  const closed = [];
  addEventListener('beforeprint', () => {
    for (const box of document.querySelectorAll('details:not([open])')) { closed.push(box); box.open = true; }
  });
  addEventListener('afterprint', () => { for (const box of closed.splice(0)) box.open = false; });

  for (const explorer of document.querySelectorAll('.explore')) {
    const picture = explorer.querySelector('svg'), line = explorer.querySelector('.readout');
    const told = JSON.parse(explorer.querySelector('.cells').textContent);
    const at = Object.fromEntries(['left', 'top', 'cell', 'count'].map(key => [key, Number(picture.dataset[key])]));
    const cursor = picture.querySelector('.cursor');
    let row = 0, column = 0;
    const show = () => {
      for (const [key, value] of [['x', at.left + column * at.cell], ['y', at.top + row * at.cell],
                                  ['width', at.cell], ['height', at.cell]]) cursor.setAttribute(key, value);
      line.textContent = `${told.sides[0]}: \\u2068${told.names[row]}\\u2069, ${told.sides[1]}: ` +
        `\\u2068${told.names[column]}\\u2069: ${told.values[row][column].toFixed(told.digits)}`;
    };
    picture.addEventListener('pointermove', event => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
      const c = Math.floor((point.x - at.left) / at.cell), r = Math.floor((point.y - at.top) / at.cell);
      if (Math.min(r, c) >= 0 && Math.max(r, c) < at.count) { row = r; column = c; show(); }
    });
    picture.addEventListener('keydown', event => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      row = Math.min(at.count - 1, Math.max(0, row + step[0]));
      column = Math.min(at.count - 1, Math.max(0, column + step[1]));
      show();
      cursor.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    });
  }
})();
"""

_SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
# The browser itself refuses what is not of this page: other hosts, and scripts that came in with the data.
POLICY = (
    f"default-src 'none'; script-src 'sha256-{_SCRIPT_HASH}'; style-src 'unsafe-inline'; "
    "media-src data: file: 'self'; base-uri 'none'; form-action 'none'"
)
