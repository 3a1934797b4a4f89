"""Bars in yuv420p."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.media.canvas import BarsPicture, plan_layout, rgb, to_yuv


def picture(
    width: int = 320, height: int = 180, bands: int = 16
) -> tuple[NDArray[np.uint8], BarsPicture]:
    canvas = np.zeros((height * 3 // 2, width), np.uint8)
    return canvas, BarsPicture(canvas, bands=bands, colour="#35c2ff", background="#0b1020")


@pytest.mark.parametrize(
    ("colour", "yuv"),
    [
        ("#000000", (16, 128, 128)),
        ("#ffffff", (235, 128, 128)),
        ("#ff0000", (63, 102, 240)),
        ("#00ff00", (173, 42, 26)),
        ("#0000ff", (32, 240, 118)),
    ],
)
def test_colours_are_bt709_in_limited_range(colour: str, yuv: tuple[int, int, int]) -> None:
    """The corners of the colour cube land where ITU-R BT.709 puts them."""
    assert tuple(np.rint(to_yuv(rgb(colour))).astype(int)) == yuv


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=16, max_size=16), max_size=6))
@settings(max_examples=30, deadline=None)
def test_touching_only_what_changed_looks_the_same(rows: list[list[float]]) -> None:
    """After any walk of heights and peaks the picture equals one drawn afresh."""
    canvas, bars = picture()
    heights = peaks = np.zeros(16, np.float32)
    for row in rows:
        heights = np.array(row, np.float32)
        peaks = np.maximum(heights, heights[::-1])
        bars.draw(heights, peaks)
    fresh, other = picture()
    other.draw(heights, peaks)
    assert (canvas == fresh).all()


def test_a_higher_bar_lights_more() -> None:
    """The brightness of a bar's column grows with its height, its neighbours stay dark."""
    canvas, bars = picture()
    still = canvas.copy()
    place = bars.layout
    column = slice(place.left + 3 * place.pitch, place.left + 3 * place.pitch + place.width)
    sums = []
    for height in (0.1, 0.5, 1.0):
        heights = np.zeros(16, np.float32)
        heights[3] = height
        bars.draw(heights, heights)
        sums.append(int(canvas[:180, column].sum()))
    assert sums == sorted(set(sums))
    changed = np.nonzero((canvas != still)[:180].any(axis=0))[0]
    assert (changed.min(), changed.max()) == (column.start, column.stop - 1)


@given(
    st.integers(32, 3840).map(lambda half: 2 * half),
    st.integers(32, 2160).map(lambda half: 2 * half),
    st.integers(8, 256),
)
def test_every_layout_is_even_and_inside(width: int, height: int, bands: int) -> None:
    """Whatever size and bands are asked for, each bar is inside the picture on even pixels."""
    plan = plan_layout(width, height, bands)
    assert 1 <= plan.bars <= bands
    assert not any(value % 2 for value in plan[1:])
    assert 2 <= plan.width < plan.pitch
    assert plan.left >= 0
    assert plan.left + (plan.bars - 1) * plan.pitch + plan.width <= width
    assert plan.base - plan.tall >= 0
    assert plan.base + plan.mirror <= height


@pytest.mark.parametrize(("width", "height", "bands"), [(64, 64, 256), (1280, 64, 8), (64, 720, 8)])
def test_odd_shapes_can_be_drawn(width: int, height: int, bands: int) -> None:
    """The smallest, widest and tallest pictures draw full and empty bars alike."""
    canvas, bars = picture(width, height, bands)
    for value in (1.0, 0.0, 0.5):
        heights = np.full(bars.layout.bars, value, np.float32)
        bars.draw(heights, np.minimum(1.0, heights + 0.3).astype(np.float32))
    assert canvas[:height].max() > 60
