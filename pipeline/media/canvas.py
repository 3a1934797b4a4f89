"""Draws bars straight into a yuv420p picture, touching only the rows that change.

The picture is one uint8 array of shape (height * 3 / 2, width), the planes Y, U, V one below the
other. All positions and sizes are even, because a chroma sample covers 2 x 2 pixels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHEET_BYTES = 12  # per pixel of the picture, for all drawn heights of a bar; coarser steps if more
REFLECTION = 0.3  # height of the mirror image below the bars, in bar heights

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def rgb(colour: str) -> Floats:
    """`#35c2ff` as three floats 0 to 1."""
    return np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)], np.float32)


def mix(one: Floats, other: Floats, share: Floats | float) -> Floats:
    """Between two colours: `share` of the other one. A share per row gives a colour per row."""
    part = np.asarray(share, np.float32)[..., None]
    return one * (1 - part) + other * part


def to_yuv(colour: Floats) -> Floats:
    """R'G'B' 0 to 1 (last axis) as Y'CbCr of BT.709 in limited range: 16 to 235, 16 to 240."""
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    cb, cr = (blue - luma) / 1.8556, (red - luma) / 1.5748
    return np.stack((16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr), axis=-1)


def even(value: float) -> int:
    """The nearest even number at or below."""
    return int(value) // 2 * 2


class Planes:
    """Views of one picture: `luma` (height, width) and `chroma` (2, height / 2, width / 2)."""

    def __init__(self, canvas: Bytes) -> None:
        self.height, self.width = canvas.shape[0] * 2 // 3, canvas.shape[1]
        flat = canvas.reshape(-1)
        self.luma = canvas[: self.height]
        self.chroma = flat[self.height * self.width :].reshape(2, self.height // 2, self.width // 2)

    def fill_rows(self, yuv: Floats) -> None:
        """Paint every row in its colour; `yuv` has shape (height, 3)."""
        self.luma[:] = _bytes(yuv[:, 0])[:, None]
        self.chroma[:] = _bytes(_halved(yuv)[:, 1:].T)[:, :, None]


class Layout(NamedTuple):
    """Where the bars stand, in pixels."""

    bars: int
    left: int  # of the first bar
    pitch: int
    width: int  # of a bar
    base: int  # the row below the bars' feet
    tall: int  # rows of a full bar
    mirror: int  # rows of a full bar's reflection


def plan_layout(width: int, height: int, bands: int) -> Layout:
    """A layout for that picture; with fewer bars where so many do not fit."""
    room = width - 2 * even(width / 20)
    bars = min(bands, room // 4)
    pitch = even(room / bars)
    thick = max(2, even(pitch * 0.7))
    left = even((width - (bars - 1) * pitch - thick) / 2)
    tall = even(height * 0.54)
    return Layout(bars, left, pitch, thick, even(height * 0.7), tall, even(tall * REFLECTION))


class Sheet:
    """A bar at every height it can have: luma (heights, rows, width), chroma (heights, 2, …)."""

    def __init__(self, lit: Floats, dark: Floats, heights: list[int], width: int) -> None:
        """Bars stand at the last row; `lit` and `dark` are yuv colours per row, (rows, 3)."""
        rows = len(lit)
        self.heights = heights
        self.round = min(even(width / 2), 12, heights[0])  # rows of the rounded end
        self.luma = np.empty((len(heights), rows, width), np.uint8)
        self.chroma = np.empty((len(heights), 2, rows // 2, width // 2), np.uint8)
        cover = _rounded(self.round, width)
        cover2 = cover.reshape(self.round // 2, 2, width // 2, 2).mean(axis=(1, 3))
        lit2, dark2 = _halved(lit)[:, 1:].T, _halved(dark)[:, 1:].T
        for index, height in enumerate(heights):
            top, end = rows - height, rows - height + self.round
            column = np.where(np.arange(rows) < top, dark[:, 0], lit[:, 0])
            self.luma[index] = _bytes(column)[:, None]
            light, ground = lit[top:end, :1], dark[top:end, :1]
            self.luma[index, top:end] = _bytes(ground + (light - ground) * cover)
            top, end = top // 2, end // 2
            column = np.where(np.arange(rows // 2) < top, dark2, lit2)
            self.chroma[index] = _bytes(column)[:, :, None]
            light, ground = lit2[:, top:end, None], dark2[:, top:end, None]
            self.chroma[index, :, top:end] = _bytes(ground + (light - ground) * cover2)


class BarsPicture:
    """A row of bars with falling peaks and a faint mirror image, on a quiet background."""

    def __init__(self, canvas: Bytes, *, bands: int, colour: str, background: str) -> None:
        self._planes = Planes(canvas)
        height, width = self._planes.height, self._planes.width
        self.layout = plan_layout(width, height, bands)
        ground = _background(rgb(background), height, self.layout.base)
        self._planes.fill_rows(to_yuv(ground))
        self._make_sheets(rgb(colour), ground)
        bright = mix(rgb(colour), np.ones(3, np.float32), 0.5)
        peak = to_yuv(mix(bright, ground[self.layout.base], 0.4))
        self._peak_luma = _bytes(peak[:1])
        self._peak_chroma = _bytes(peak[1:])[:, None, None]
        self._thick = max(2, even(height / 270))
        self._shown = [-1] * self.layout.bars
        self._peaks = [-1] * self.layout.bars  # row of the peak's top, from the sheet's top
        zeros = np.zeros(self.layout.bars, np.float32)
        self.draw(zeros, zeros)

    def _make_sheets(self, colour: Floats, ground: Floats) -> None:
        _bars, _left, _pitch, width, base, tall, mirror = self.layout
        least = max(2, min(even(width / 2), 12, mirror))
        room = SHEET_BYTES * self._planes.height * self._planes.width
        step = 2
        while (tall + mirror) * width * 1.5 * tall / step > room:
            step += 2
        heights = list(range(least, tall + 1, step))
        white = np.ones(3, np.float32)
        rise = np.linspace(1.0, 0.0, tall, dtype=np.float32)  # 1 at the top
        foot, head = mix(colour, ground[base], 0.45), mix(colour, white, 0.3)
        lit = mix(foot, colour, np.minimum(1.0, rise * 2.2))
        lit = mix(lit, head, np.maximum(0.0, rise * 1.6 - 0.6))
        self._up = Sheet(to_yuv(lit), to_yuv(ground[base - tall : base]), heights, width)
        below = ground[base : base + mirror]
        fade = 0.30 * np.linspace(1.0, 0.0, mirror, dtype=np.float32) ** 1.5
        dim = mix(below, np.broadcast_to(foot, below.shape), fade)
        shorter = [max(least, even(height * REFLECTION)) for height in heights]
        # Built standing on its head, shown through flipped views.
        self._down = Sheet(to_yuv(dim)[::-1], to_yuv(below)[::-1], shorter, width)
        self._mirror_luma = self._down.luma[:, ::-1]
        self._mirror_chroma = self._down.chroma[:, :, ::-1]

    def draw(self, heights: Floats, peaks: Floats) -> None:
        """Show these heights and peaks, 0 to 1, one per bar; only what changed is touched."""
        top = len(self._up.heights) - 1
        levels = (heights * top + 0.5).astype(int).tolist()
        tall, thick = self.layout.tall, self._thick
        rows = (tall - thick - ((peaks * (tall - thick)).astype(int) & ~1)).tolist()
        for bar, (level, row) in enumerate(zip(levels, rows, strict=True)):
            # A peak that touches its bar is not shown.
            hidden = row + 2 * thick > tall - self._up.heights[level]
            self._draw_bar(bar, level, -1 if hidden else row)

    def _draw_bar(self, bar: int, level: int, peak: int) -> None:
        before, old_peak = self._shown[bar], self._peaks[bar]
        if level == before and peak == old_peak:
            return
        sheet, thick = self._up, self._thick
        first, last = self._span(before, level)
        for row in (old_peak, peak):
            if row >= 0:
                first, last = min(first, row), max(last, row + thick)
        _bars, left, pitch, width, base, tall, _mirror = self.layout
        x, y = left + bar * pitch, base - tall
        luma, chroma = self._planes.luma, self._planes.chroma
        luma[y + first : y + last, x : x + width] = sheet.luma[level, first:last]
        half = slice((y + first) // 2, (y + last) // 2)
        chroma[:, half, x // 2 : (x + width) // 2] = sheet.chroma[level, :, first // 2 : last // 2]
        if peak >= 0:
            y += peak
            luma[y : y + thick, x : x + width] = self._peak_luma
            chroma[:, y // 2 : (y + thick) // 2, x // 2 : (x + width) // 2] = self._peak_chroma
        if level != before:
            self._draw_mirror(x, before, level)
        self._shown[bar], self._peaks[bar] = level, peak

    def _span(self, before: int, level: int) -> tuple[int, int]:
        """The rows of a bar that differ between two levels; `before` is -1 for the first time."""
        rows, heights = self.layout.tall, self._up.heights
        if before < 0:
            return 0, rows
        if before == level:
            return rows, 0
        low, high = heights[min(before, level)], heights[max(before, level)]
        return rows - high, min(rows, rows - low + self._up.round)

    def _draw_mirror(self, x: int, before: int, level: int) -> None:
        down, base, width = self._down, self.layout.base, self.layout.width
        first, last = 0, self.layout.mirror
        if before >= 0:
            first = max(0, down.heights[min(before, level)] - down.round)
            last = down.heights[max(before, level)]
        rows = slice(base + first, base + last)
        self._planes.luma[rows, x : x + width] = self._mirror_luma[level, first:last]
        rows = slice((base + first) // 2, (base + last) // 2)
        self._planes.chroma[:, rows, x // 2 : (x + width) // 2] = self._mirror_chroma[
            level, :, first // 2 : last // 2
        ]


def _background(colour: Floats, height: int, base: int) -> Floats:
    """Rows of R'G'B': the colour at the bars' feet, darker towards the edges."""
    away = np.abs(np.arange(height, dtype=np.float32) - base) / height
    return mix(colour, np.zeros(3, np.float32), np.minimum(0.45, away * 0.6))


def _rounded(rows: int, width: int) -> Floats:
    """How much of each pixel of a bar's round end is bar, 0 to 1; shape (rows, width)."""
    y = np.arange(rows, dtype=np.float32)[:, None] + 0.5
    x = np.arange(width, dtype=np.float32)[None, :] + 0.5
    side = np.maximum(0.0, np.maximum(rows - x, x - (width - rows)))
    cover: Floats = np.clip(rows - np.hypot(side, rows - y) + 0.5, 0.0, 1.0)
    return cover


def _halved(rows: Floats) -> Floats:
    """The mean of each two rows."""
    halves: Floats = rows.reshape(len(rows) // 2, 2, -1).mean(axis=1)
    return halves


def _bytes(values: Floats) -> Bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
