"""Names and figures, safe and readable for people."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.text import fit_name, human_bytes, human_seconds, shown, split_suffix


@given(name=st.one_of(st.binary(), st.text()), limit=st.integers(2, 500))
def test_what_is_shown_is_one_harmless_line(name: bytes | str, limit: int) -> None:
    """Whatever a name holds, it is shown as one bounded line of printable, encodable text."""
    text = shown(name, limit)
    assert len(text) <= limit
    assert text.isprintable()
    assert len(text.splitlines()) <= 1
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"talk.wav", "talk.wav"),
        ("Übung 日本 😀.wav".encode(), "Übung 日本 😀.wav"),
        (b"a\nWATCHDOG=trigger\n", r"a\nWATCHDOG=trigger\n"),
        (b"\x1b[2J", r"\x1b[2J"),
        ("\u202egnp.exe".encode(), r"\u202egnp.exe"),
        ("\u2028x".encode(), r"\u2028x"),
        (b"bad\xff", r"bad\udcff"),
    ],
)
def test_names_stay_readable(name: bytes, text: str) -> None:
    """Ordinary letters of any script stay; what could harm becomes a visible escape."""
    assert shown(name) == text


@given(stem=st.binary(min_size=1, max_size=600), suffix=st.binary(max_size=255))
def test_a_fitted_name_fits(stem: bytes, suffix: bytes) -> None:
    """A fitted name is at most 255 bytes, keeps the suffix, and is unchanged if it fitted."""
    name = fit_name(stem, suffix)
    assert len(name) <= 255
    assert name.endswith(suffix)
    if len(stem + suffix) <= 255:
        assert name == stem + suffix
    else:
        kept = name[: len(name) - len(suffix)]
        assert stem.startswith(kept)
        assert len(name) >= min(255, 252)


@given(stem=st.text(max_size=300), suffix=st.sampled_from([b"", b".srt", b".penstock.json"]))
def test_a_fitted_name_stays_text(stem: str, suffix: bytes) -> None:
    """Shortening valid text never cuts a character in two."""
    fit_name(stem.encode("utf-8", "ignore"), suffix).decode("utf-8")


def test_a_name_that_is_no_text_keeps_its_bytes() -> None:
    """Only the end of a long name is cut, also if its bytes are no UTF-8."""
    stem = b"\xff\xfe" * 200
    assert fit_name(stem, b".srt") == stem[:251] + b".srt"
    assert fit_name(b"\x80" * 300) == b"\x80" * 255


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"talk.MP3", (b"talk", b".mp3")),
        (b"sub/talk.tar.gz", (b"talk.tar", b".gz")),
        (b".wav", (b".wav", b"")),
        (b"talk", (b"talk", b"")),
    ],
)
def test_suffixes(name: bytes, parts: tuple[bytes, bytes]) -> None:
    """A name is split before its last dot, the suffix in lower case."""
    assert split_suffix(name) == parts
    assert os.path.basename(name).lower().endswith(parts[1])


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (812, "812 B"), (999.7, "1.0 kB"), (1000, "1.0 kB"), (3_400_000, "3.4 MB"),
     (999_960, "1.0 MB"), (1.2e9, "1.2 GB"), (2.5e12, "2.5 TB"), (-1500, "-1.5 kB")],
)  # fmt: skip
def test_sizes_read_well(size: float, text: str) -> None:
    """Sizes have three digits at most before the point, also after rounding."""
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (4.21, "4.2 s"), (59.97, "1 min 0 s"), (200, "3 min 20 s"),
     (3599.7, "1 h 0 min"), (7500, "2 h 5 min")],
)  # fmt: skip
def test_durations_read_well(seconds: float, text: str) -> None:
    """Durations never show sixty seconds or sixty minutes."""
    assert human_seconds(seconds) == text
