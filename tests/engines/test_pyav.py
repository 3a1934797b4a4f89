"""PyAV: what files hold, their sound, and the videos that we write."""

import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
import pytest

from pipeline.core.errors import BadInput, NoSpace, Transient
from pipeline.engines.pyav import (
    AudioReader,
    EncoderRefused,
    SoundCopy,
    SoundForm,
    VideoForm,
    VideoWriter,
    can_copy,
    decode_audio,
    probe,
    trial,
)
from tests.fakes.sounds import BrokenShare, bursts, tone, write_silent_film, write_sound

SMALL = VideoForm(320, 180, 30, "libx264")
SOUND = SoundForm(48_000, 2)


def heard(path: Path, rate: int = 16_000, channels: int = 1) -> Any:
    with open(path, "rb") as file:
        return np.concatenate(list(decode_audio(file, rate=rate, channels=channels)))


def loudest_hertz(samples: Any, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples[:, 0])).argmax() * rate / len(samples))


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("a.wav", "pcm_s16le", 44_100, 2),
        ("a.wav", "pcm_mulaw", 8_000, 1),
        ("a.wav", "pcm_f32le", 192_000, 2),
        ("a.flac", "flac", 48_000, 6),
        ("a.mp3", "libmp3lame", 44_100, 2),
        ("a.m4a", "aac", 48_000, 6),
        ("a.opus", "libopus", 48_000, 1),
        ("a.mka", "ac3", 48_000, 2),
    ],
)
def test_sound_of_every_kind_is_read(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    """The tone, its length and its track's facts come out of every usual format."""
    path = write_sound(tmp_path / name, tone(2.0, rate, channels), rate, codec)
    with open(path, "rb") as file:
        facts = probe(file)
    assert (facts.audio[0].rate, facts.audio[0].channels) == (rate, channels)
    assert facts.seconds == pytest.approx(2.0, abs=0.05)
    samples = heard(path)
    assert len(samples) == pytest.approx(32_000, abs=1_000)
    assert samples.dtype == np.float32
    assert loudest_hertz(samples, 16_000) == pytest.approx(440, abs=2)
    assert 0.05 < np.abs(samples).max() <= 1.0


def test_blocks_are_as_long_as_asked(tmp_path: Path) -> None:
    """Every block but the last has the same length, and the reader counts what it gave."""
    path = write_sound(tmp_path / "a.wav", tone(2.3), 48_000, "pcm_s16le")
    with open(path, "rb") as file, AudioReader(file, rate=8_000, channels=2) as reader:
        sizes = [block.shape for block in reader]
    assert sizes == [(8_000, 2), (8_000, 2), (2_400, 2)]
    assert reader.samples == 18_400
    assert reader.seconds_expected == pytest.approx(2.3)
    assert reader.errors == 0


def test_numbers_that_are_none_become_silence(tmp_path: Path) -> None:
    """NaN and infinity in float sound come out as 0, and nothing lies beyond 1."""
    sound = tone(1.0)
    sound[100:110] = np.nan
    sound[200:210] = np.inf
    sound[300:310] = 1e30
    samples = heard(write_sound(tmp_path / "a.wav", sound, 48_000, "pcm_f32le"), rate=48_000)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.0
    assert not samples[100:110].any()


def test_sound_that_starts_late_keeps_its_place(tmp_path: Path) -> None:
    """Sound that begins a second after the picture comes out after a second of silence."""
    path = write_sound(tmp_path / "a.mkv", tone(1.0), 48_000, "pcm_s16le", late=1.0)
    samples = heard(path)
    assert len(samples) == pytest.approx(32_000, abs=200)
    assert not samples[:15_800].any()
    assert np.abs(samples[16_200:17_000]).max() > 0.2


def test_a_cover_is_not_a_film(tmp_path: Path) -> None:
    """A cover picture is told apart, and the sound beside it is read."""
    path = write_sound(tmp_path / "a.mp3", tone(1.0), 48_000, "libmp3lame", cover=True)
    with open(path, "rb") as file:
        facts = probe(file)
    assert [track.attached_picture for track in facts.video] == [True]
    assert len(heard(path)) == pytest.approx(16_000, abs=600)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 50_000,
        b"just some words\n" * 200,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nvictim.wav\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile victim.wav\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    ],
)
def test_what_is_no_media_is_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, text and playlists are the file's own fault; a playlist opens no other file."""
    write_sound(tmp_path / "victim.wav", tone(1.0), 48_000, "pcm_s16le")
    (tmp_path / "drop.mp4").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with open("drop.mp4", "rb") as file, pytest.raises(BadInput, match="FFmpeg can read"):
        probe(file)


def test_a_film_without_sound_says_so(tmp_path: Path) -> None:
    """A film without a sound track fails as the file's own fault, with a next step."""
    path = write_silent_film(tmp_path / "a.mp4")
    with pytest.raises(BadInput, match="has no sound") as caught:
        heard(path)
    assert caught.value.hint


def test_a_missing_track_says_how_many_there_are(tmp_path: Path) -> None:
    """Asking for a track that is not there names those that are."""
    path = write_sound(tmp_path / "a.wav", tone(1.0), 48_000, "pcm_s16le")
    with open(path, "rb") as file, pytest.raises(BadInput, match="no audio track 2"):
        AudioReader(file, rate=8_000, channels=1, track=2)


def test_damage_in_the_middle_is_skipped_and_counted(tmp_path: Path) -> None:
    """A stretch of rubbish costs its own seconds only, and time behind it is right."""
    path = write_sound(tmp_path / "a.m4a", bursts(10.0, [1.0, 9.0]), 48_000, "aac")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    middle = start + (len(data) - start) * 6 // 10
    rng = np.random.default_rng(3)
    data[middle - 200 : middle + 200] = rng.integers(0, 256, 400, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    with open(path, "rb") as file, AudioReader(file, rate=8_000, channels=1) as reader:
        samples = np.concatenate(list(reader))
    assert reader.errors > 0
    assert len(samples) == pytest.approx(80_000, abs=1_500)
    assert np.abs(samples[8_000:8_500]).max() > 0.1


def test_nothing_but_damage_is_refused(tmp_path: Path) -> None:
    """A container whose sound can not be decoded at all is the file's own fault."""
    path = write_sound(tmp_path / "a.flac", tone(1.0), 48_000, "flac")
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes(len(data) - 100))
    with pytest.raises(BadInput):
        heard(path)


@pytest.mark.parametrize("reads", [0, 4])
def test_a_share_that_goes_away_is_not_the_files_fault(tmp_path: Path, reads: int) -> None:
    """An input/output error while reading means later, not never."""
    path = write_sound(tmp_path / "a.wav", tone(20.0), 48_000, "pcm_s16le")
    with (
        BrokenShare(path, reads) as file,
        pytest.raises(Transient, match="Input/output error"),
    ):
        list(decode_audio(cast(BinaryIO, file), rate=8_000, channels=1))


def write_film(path: Path, frames: int = 45, form: VideoForm = SMALL) -> Path:
    with VideoWriter(os.fsencode(path), form, SOUND) as writer:
        for index in range(frames):
            writer.canvas[:] = 128
            writer.canvas[: form.height, index * 4 : index * 4 + 20] = 200
            writer.write_frame()
        writer.write_sound(tone(frames / form.fps, 48_000, 2))
        writer.finish()
    return path


def test_a_film_is_whole_and_tagged(tmp_path: Path) -> None:
    """The mp4 has its frames, its sound, BT.709 tags, and its index in front of its data."""
    path = write_film(tmp_path / "a\udcff.mp4")
    with open(path, "rb") as file:
        facts = probe(file)
    assert (facts.video[0].frames, facts.video[0].width, facts.video[0].fps) == (45, 320, 30)
    assert facts.audio[0].codec == "aac"
    assert facts.seconds == pytest.approx(1.5, abs=0.03)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert data[data.index(b"colrnclx") + 8 :][:7] == bytes([0, 1, 0, 1, 0, 1, 0])
    assert os.listdir(os.fsencode(tmp_path)) == [b"a\xff.mp4"]


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def test_one_buffer_for_all_frames_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits are the same whether every frame is a copy or all share the canvas."""
    shared = write_film(tmp_path / "shared.mp4")
    real = VideoWriter._open_streams

    def copying(writer: VideoWriter) -> None:
        real(writer)
        writer._frame = None

    monkeypatch.setattr(VideoWriter, "_open_streams", copying)
    copied = write_film(tmp_path / "copied.mp4")
    assert packets(shared, "video") == packets(copied, "video")


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.mkv", "aac")],
)
def test_sound_is_copied_bit_for_bit(tmp_path: Path, name: str, codec: str) -> None:
    """AAC and MP3 go into the mp4 untouched and in their place."""
    source = write_sound(tmp_path / name, bursts(3.0, [1.5]), 48_000, codec)
    with open(source, "rb") as file:
        assert can_copy(probe(file).audio[0])
    with open(source, "rb") as file:
        sound = SoundCopy(file)
        with VideoWriter(os.fsencode(tmp_path / "out.mp4"), SMALL, sound) as writer:
            for second in range(3):
                for _index in range(30):
                    writer.write_frame()
                writer.copy_sound(second + 1.0)
            writer.finish()
        sound.close()
    before, after = packets(source, "audio"), packets(tmp_path / "out.mp4", "audio")
    assert after == before[: len(after)]
    assert len(before) - len(after) <= 2
    loud = np.abs(heard(tmp_path / "out.mp4")[:, 0]) > 0.2
    assert loud.argmax() / 16_000 == pytest.approx(1.5, abs=0.03)


def give_up(path: Path) -> None:
    with VideoWriter(os.fsencode(path), SMALL, SOUND) as writer:
        writer.write_frame()
        raise KeyError


def test_a_film_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """An error on the way leaves neither a file nor a part of one."""
    with pytest.raises(KeyError):
        give_up(tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == []


def write_noise(path: Path) -> None:
    noise = np.random.default_rng(5)
    with VideoWriter(os.fsencode(path), SMALL, SOUND) as writer:
        for _index in range(30):
            writer.canvas[:] = noise.integers(0, 256, writer.canvas.shape, np.uint8)
            writer.write_frame()
        writer.write_sound(tone(1.0, 48_000, 2))
        writer.finish()


class FullDisk:
    """A file on a disk that has room for some bytes only."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        self._file = file
        self._room = room
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.fileno = file.fileno

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(28, "No space left on device")
        return self._file.write(data)


@pytest.mark.parametrize("room", [0, 10_000, 50_000])
def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the disk fills up, the job waits for room and no part of the film stays."""
    real = os.fdopen

    def limited(*given: Any, **named: Any) -> FullDisk:
        return FullDisk(real(*given, **named), room)

    monkeypatch.setattr(os, "fdopen", limited)
    with pytest.raises(NoSpace):
        write_noise(tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == []


def test_an_encoder_that_refuses_says_so_before_any_work(tmp_path: Path) -> None:
    """An encoder that can not open is refused at once, and nothing is left."""
    if not trial("h264_nvenc"):
        pytest.skip("this machine has a card that encodes")
    with pytest.raises(EncoderRefused):
        VideoWriter(os.fsencode(tmp_path / "a.mp4"), SMALL._replace(codec="h264_nvenc"), SOUND)
    assert os.listdir(tmp_path) == []


def test_the_trial_of_a_working_encoder_is_silent() -> None:
    """libx264 works wherever PyAV does."""
    assert trial("libx264") == ""
