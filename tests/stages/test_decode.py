"""The decode stage: real files in, raw sound out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import BadInput, Cancelled, NoSpace
from pipeline.stages import decode
from tests.fakes.sounds import tone, write_sound
from tests.fakes.speech import speech, speech_order, work_on
from tests.publish.mounts import small_disk


def test_sound_lands_as_raw_samples(room: bytes) -> None:
    """The artefact holds the recording at 16 kHz, and the facts say what it was."""
    beats: list[float | None] = []
    work = work_on(speech_order(room), beats.append)
    result = decode.run(work)
    with open(work.artefact("audio.s16"), "rb") as file:
        samples = np.frombuffer(file.read(), "<i2")
    assert np.abs(samples / 32768.0 - speech()).max() <= 0.5 / 32768 + 1e-6
    with open(work.artefact("audio.json"), "rb") as file:
        facts = json.load(file)
    assert facts == result.facts
    assert facts["container"] == "ogg"
    assert facts["codec"] == "opus"
    assert facts["samples"] == len(samples)
    assert facts["seconds"] == pytest.approx(14.1, abs=0.1)
    assert len(beats) >= 14
    assert beats[-1] == pytest.approx(1.0, abs=0.05)


def test_full_scale_does_not_wrap_around(room: bytes, tmp_path: Path) -> None:
    """The loudest sample stays the loudest: nothing turns into its opposite."""
    loud = np.ones((16_000, 1), np.float32)
    source = write_sound(tmp_path / "loud.wav", loud, 16_000, "pcm_f32le")
    work = work_on(speech_order(room, source))
    decode.run(work)
    with open(work.artefact("audio.s16"), "rb") as file:
        assert np.frombuffer(file.read(), "<i2").min() > 32_000


def test_the_wanted_track_must_be_there(room: bytes) -> None:
    """A track number that the file does not have fails with how many there are."""
    with pytest.raises(BadInput, match="no audio track 3"):
        decode.run(work_on(speech_order(room, track=3)))


def test_no_media_is_bad_input(room: bytes, tmp_path: Path) -> None:
    """A text that is called .mp3 fails for good and leaves no sound behind."""
    (tmp_path / "note.mp3").write_text("not a sound\n" * 1000)
    work = work_on(speech_order(room, tmp_path / "note.mp3"))
    with pytest.raises(BadInput):
        decode.run(work)
    assert not os.path.exists(work.artefact("audio.json"))


def test_a_second_run_replaces_the_first(room: bytes, tmp_path: Path) -> None:
    """What a crashed attempt left, longer or not, is gone afterwards."""
    source = write_sound(tmp_path / "a.wav", tone(1.0, 16_000), 16_000, "pcm_s16le")
    work = work_on(speech_order(room, source))
    with open(work.artefact("audio.s16"), "wb") as file:
        file.write(b"x" * 1_000_000)
    decode.run(work)
    assert os.path.getsize(work.artefact("audio.s16")) == 32_000


def test_a_cancel_comes_through(room: bytes) -> None:
    """A beat that raises ends the stage."""

    def beat(_part: float | None) -> None:
        raise Cancelled("asked")

    with pytest.raises(Cancelled):
        decode.run(work_on(speech_order(room), beat))


def test_a_full_disk_waits_for_room(room: bytes) -> None:
    """No room for the sound is NoSpace, and the part that was written is removed."""
    order = speech_order(room)
    with small_disk(order.scratch, 128):
        with pytest.raises(NoSpace, match="no room") as found:
            decode.run(work_on(order))
        assert "free some space" in found.value.hint
        assert os.listdir(order.scratch) == []


@pytest.mark.slow
def test_memory_does_not_grow_with_length(room: bytes, tmp_path: Path) -> None:
    """Two hours take no more memory than two minutes."""
    peaks = []
    for seconds in (120, 7200):
        source = tmp_path / f"{seconds}.flac"
        silence = ["-f", "lavfi", "-t", str(seconds), "-i", "anoisesrc=r=16000:a=0.01"]
        subprocess.run(["ffmpeg", "-v", "error", *silence, str(source)], check=True)
        code = (
            "import resource, sys; from pathlib import Path;"
            "from tests.fakes.speech import speech_order, work_on;"
            "from pipeline.stages import decode, vad;"
            "work = work_on(speech_order(sys.argv[1].encode(), Path(sys.argv[2])));"
            "decode.run(work); vad.run(work);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        line = [sys.executable, "-c", code, os.fsdecode(room), str(source)]
        peaks.append(int(subprocess.run(line, check=True, capture_output=True).stdout))
    assert peaks[1] < peaks[0] + 40_000  # kB
