"""Pictures for the report of the demo: PNG and SVG made here, in the colours of the page, light and dark."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np

_LETTER = 5.6  # width of an average letter in the labels of a heat map
# From silence to loud; bright colours only for what is loud, as in most spectrograms.
_RAMP = ((8, 6, 30), (58, 20, 96), (140, 41, 112), (214, 73, 86), (249, 142, 66), (253, 231, 150))


def spectrogram_png(mel_TF: np.ndarray, *, range_db: float = 70.0) -> bytes:
    """A palette PNG of log-mel frames in dB, time to the right, high pitch at the top."""
    loudest = float(mel_TF.max(initial=0.0))
    level = np.clip((mel_TF - loudest + range_db) / range_db, 0.0, 1.0)
    return png((level.T[::-1] * 255).round().astype(np.uint8), palette=_palette())


def _palette() -> np.ndarray:
    stops = np.linspace(0, 255, len(_RAMP))
    channels = [np.interp(np.arange(256), stops, channel) for channel in zip(*_RAMP, strict=True)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def png(pixels_HW: np.ndarray, *, palette: np.ndarray) -> bytes:
    """An 8-bit image of indices into `palette` [256, 3] as a PNG file."""
    height, width = pixels_HW.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels_HW))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette.tobytes()), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def heat_map(
    values_RC: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    cell: int,
    digits: int | None = None,
    framed: Sequence[int] | None = None,
) -> str:
    """An SVG of values between 0 and 1, darker for more.

    digits   write the value into the cell with so many digits;  framed   the column to frame in each row
    """
    left = 10 + _LETTER * max(map(len, rows))
    top = 10 + _LETTER * 0.72 * max(map(len, columns))
    across, down = cell * len(columns), cell * len(rows)
    width, height = left + across + 0.72 * _LETTER * len(columns[-1]) + 6, top + down + 2
    parts = [f'<svg class="heat" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img">']
    parts.append(f'<rect class="ground" x="{left:.1f}" y="{top:.1f}" width="{across}" height="{down}"/>')
    for c, name in enumerate(columns):
        x, y = left + cell * (c + 0.5), top - 6
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" transform="rotate(-45 {x:.1f} {y:.1f})">{escape(name)}</text>')
    for r, name in enumerate(rows):
        y = top + cell * (r + 0.5) + 3.5
        parts.append(f'<text x="{left - 6:.1f}" y="{y:.1f}" text-anchor="end">{escape(name)}</text>')
        for c, value in enumerate(values_RC[r]):
            x, y = left + cell * c, top + cell * r
            frame = " framed" if framed is not None and framed[r] == c else ""
            shade = f'fill-opacity="{min(1.0, max(0.0, float(value))):.2f}"'
            size = f'width="{cell - 1}" height="{cell - 1}"'
            if value > 0.004 or frame:
                words = f"<title>{escape(name)} / {escape(columns[c])}: {value:.2f}</title>"
                parts.append(f'<rect class="cell{frame}" x="{x:.1f}" y="{y:.1f}" {size} {shade}>{words}</rect>')
            if digits is not None:
                shown = round(float(value), digits) + 0.0  # no minus before a zero
                tone = "on" if value > 0.55 else "off"
                middle = f'x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 3:.1f}"'
                parts.append(f'<text class="{tone}" {middle} text-anchor="middle">{shown:.{digits}f}</text>')
    return "".join(parts) + "</svg>"


def curve(x: Sequence[float], y: Sequence[float], *, x_label: str, y_label: str) -> str:
    """An SVG of one line, with three marks on each axis."""
    width, height, left, bottom = 680, 240, 48, 34
    low, high = 0.0, max(y) * 1.05

    def place(at: float, value: float) -> tuple[float, float]:
        across = left + (width - left - 10) * at / max(x)
        return across, 8 + (height - bottom - 8) * (1 - (value - low) / (high - low))

    points = " ".join("{:.1f},{:.1f}".format(*place(a, b)) for a, b in zip(x, y, strict=True))
    parts = [f'<svg class="curve" viewBox="0 0 {width} {height}" role="img">']
    for share in (0.0, 0.5, 1.0):
        value, at = high * share, max(x) * share
        _, row = place(0, value)
        column, _ = place(at, 0)
        anchor = "end" if share == 1.0 else "middle"
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{row:.1f}" y2="{row:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{row + 4:.1f}" text-anchor="end">{value:.1f}</text>')
        parts.append(f'<text x="{column:.1f}" y="{height - 16}" text-anchor="{anchor}">{at:.0f}</text>')
    parts.append(f'<polyline class="line" points="{points}"/>')
    parts.append(f'<text x="{(width + left) / 2}" y="{height - 2}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{left + 6}" y="26">{escape(y_label)}</text>')
    return "".join(parts) + "</svg>"


def score_bar(value: float, low: float, high: float, chance: float) -> str:
    """A bar for a fraction, with its interval and a mark at chance."""
    return (
        '<span class="bar" aria-hidden="true">'
        f'<span class="fill" style="width:{value:.1%}"></span>'
        f'<span class="interval" style="left:{low:.1%};width:{max(high - low, 0.002):.1%}"></span>'
        f'<span class="chance" style="left:{chance:.1%}"></span></span>'
    )
