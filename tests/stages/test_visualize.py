"""The visualize stage on real files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.core.contract import Order
from pipeline.core.errors import BadInput, Cancelled
from pipeline.core.recipes import VisualizeOptions
from pipeline.core.stage import StageResult, Work
from pipeline.engines import pyav
from pipeline.engines.encoder_probe import EncoderChoice
from pipeline.stages import visualize
from tests.fakes.sounds import bursts, tone, write_silent_film, write_sound

STEM = b"talk \xff"


def show(
    source: Path, beat: Callable[[float | None], None] = lambda _part: None, **options: Any
) -> StageResult:
    staging = source.parent / "staging"
    staging.mkdir(exist_ok=True)
    order = Order(
        job=1,
        attempt=1,
        recipe="visualize",
        root=os.fsencode(source.parent),
        name=os.fsencode(source.name),
        mark="m",
        stem=STEM,
        scratch=os.fsencode(staging),
        staging=os.fsencode(staging),
        device="cpu",
    )
    small = {"width": 320, "height": 180, **options}
    return visualize.run(Work(order=order, options=VisualizeOptions(**small), beat=beat))


def left_behind(source: Path) -> list[bytes]:
    return os.listdir(os.fsencode(source.parent / "staging"))


def seen_and_heard(path: bytes) -> tuple[list[float], float]:
    """The brightness of each frame, and when the sound first gets loud, in seconds."""
    onset = -1.0
    with av.open(os.fsdecode(path)) as film:
        bright = [float(frame.to_ndarray()[:180].mean()) for frame in film.decode(video=0)]
    with av.open(os.fsdecode(path)) as film:
        for sound in film.decode(audio=0):
            loud = np.abs(sound.to_ndarray()).max(axis=0) > 0.2
            if loud.any() and onset < 0 and sound.time is not None:
                onset = sound.time + int(loud.argmax()) / sound.sample_rate
    return bright, onset


@pytest.mark.parametrize(
    ("name", "codec", "late", "how"),
    [
        ("a.wav", "pcm_s16le", 0.0, "aac"),
        ("a.opus", "libopus", 0.0, "aac"),
        ("a.mp3", "libmp3lame", 0.0, "copied"),
        ("a.m4a", "aac", 0.0, "copied"),
        ("a.mp4", "aac", 0.5, "copied"),
    ],
)
@pytest.mark.parametrize("at", [1.0, 2.71])
def test_picture_and_sound_agree(
    tmp_path: Path, name: str, codec: str, late: float, how: str, at: float
) -> None:
    """The bars jump in the frame in which the burst is heard, give or take one."""
    source = write_sound(tmp_path / name, bursts(4.0, [at]), 48_000, codec, late=late)
    result = show(source, fps=30)
    assert result.facts["audio"] == how
    bright, onset = seen_and_heard(result.outputs[0])
    jump = int(np.diff(np.array(bright)).argmax()) + 1
    assert onset == pytest.approx(at + late, abs=0.03)
    assert abs(jump - onset * 30) <= 1.5


@pytest.mark.parametrize(
    ("seconds", "rate", "channels", "fps"),
    [(0.05, 48_000, 1, 30), (1.01, 8_000, 1, 25), (1.0, 192_000, 2, 60), (1.0, 44_100, 6, 24)],
)
def test_frames_cover_the_sound_exactly(
    tmp_path: Path, seconds: float, rate: int, channels: int, fps: int
) -> None:
    """Every kind of sound gets the frames that it takes to show all of it, and no more."""
    source = write_sound(tmp_path / "a.wav", tone(seconds, rate, channels), rate, "pcm_s16le")
    result = show(source, fps=fps)
    assert result.facts["frames"] == int(np.ceil(seconds * fps - 1e-6))
    assert len(seen_and_heard(result.outputs[0])[0]) == result.facts["frames"]
    assert result.outputs == (os.fsencode(tmp_path / "staging") + b"/talk \xff.mp4",)
    assert left_behind(source) == [b"talk \xff.mp4"]
    assert result.engine.endswith("(libx264)")
    assert result.device == "cpu"


def test_a_cover_picture_is_no_matter(tmp_path: Path) -> None:
    """Music with a cover becomes a film of bars."""
    source = write_sound(tmp_path / "a.mp3", tone(1.0), 48_000, "libmp3lame", cover=True)
    assert show(source).facts["frames"] == pytest.approx(30, abs=2)


def test_silence_is_a_film_too(tmp_path: Path) -> None:
    """Digital silence gives still bars, not an error."""
    source = write_sound(tmp_path / "a.wav", np.zeros((24_000, 1), np.float32), 48_000, "pcm_s16le")
    assert show(source).facts["frames"] == 15


def test_what_has_no_sound_is_refused(tmp_path: Path) -> None:
    """A silent film, a text and a missing track fail as the file's own fault."""
    text = tmp_path / "a.mp3"
    text.write_bytes(b"not music" * 1000)
    with pytest.raises(BadInput):
        show(text)
    with pytest.raises(BadInput, match="no sound"):
        show(write_silent_film(tmp_path / "a.mp4"))
    with pytest.raises(BadInput, match="track 1"):
        show(write_sound(tmp_path / "a.wav", tone(1.0), 48_000, "pcm_s16le"), track=1)
    assert left_behind(text) == []


def test_beats_rise_to_one(tmp_path: Path) -> None:
    """The stage tells at least once a second of film how far it is."""
    beats: list[float | None] = []
    show(write_sound(tmp_path / "a.wav", tone(4.0), 48_000, "pcm_s16le"), beats.append)
    assert len(beats) >= 4
    assert beats == sorted(beat for beat in beats if beat is not None)
    assert beats[-1] == 1.0


def test_cancelling_leaves_nothing(tmp_path: Path) -> None:
    """A job that is cancelled in the middle leaves no film and no part of one."""

    def cancel(_part: float | None) -> None:
        raise Cancelled("asked for")

    source = write_sound(tmp_path / "a.wav", tone(3.0), 48_000, "pcm_s16le")
    with pytest.raises(Cancelled):
        show(source, cancel)
    assert left_behind(source) == []


def test_a_card_that_fails_late_is_replaced_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the card's encoder does not open for the real film, libx264 makes it and says why."""
    if not pyav.trial("h264_nvenc"):
        pytest.skip("this machine has a card that encodes")
    monkeypatch.setattr(visualize, "pick_encoder", lambda _wanted: EncoderChoice("h264_nvenc"))
    source = write_sound(tmp_path / "a.mp3", tone(1.0), 48_000, "libmp3lame")
    result = show(source)
    assert result.facts["encoder"] == "libx264"
    assert "h264_nvenc" in result.fallback
    assert result.fallback == result.facts["encoder_reason"]
    assert result.facts["audio"] == "copied"


def test_a_second_attempt_replaces_the_first(tmp_path: Path) -> None:
    """Whatever an earlier attempt left under the same names is written anew."""
    source = write_sound(tmp_path / "a.wav", tone(1.0), 48_000, "pcm_s16le")
    first = show(source).outputs[0]
    Path(os.fsdecode(first)).write_bytes(b"old")
    assert os.path.getsize(show(source).outputs[0]) > 1000
    assert left_behind(source) == [b"talk \xff.mp4"]
