"""Reading with PyAV: what a file holds, and its sound in blocks.

FFmpeg never sees a name from a share: it reads from open files only, may open no other file and
knows only the containers listed here. Its log goes nowhere unless it is asked for.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from pipeline.core.errors import BadInput, JobError, NoMemory, Transient
from pipeline.core.media import AudioTrack, MediaFacts, VideoTrack
from pipeline.core.text import shown
from pipeline.media.clock import SoundClock

# Sound and film; no playlists (hls, concat, dash, sdp), no pictures, no raw formats that fit all.
CONTAINERS = (
    "wav,w64,aiff,caf,au,flac,mp3,aac,ac3,eac3,ogg,mov,matroska,avi,asf,mpegts,mpeg,flv,mxf,amr,"
    "ape,wv,tta,tak,mpc,mpc8,dsf,dts,truehd,rm,nut,voc,dv,gxf,wtv,sox,qcp,oma"
)
READ_OPTIONS = {
    "format_whitelist": CONTAINERS,
    "protocol_whitelist": "file,pipe",
    "max_pixels": "67108864",  # a cover of 16k x 16k would cost a gigabyte only to look at
    "max_streams": "64",
}
READ_BLOCK = 131072  # bytes asked of the file at a time

Samples = NDArray[np.float32]  # (samples, channels), -1 to 1

MAX_ERRORS = 1000  # damaged packets; with more of them than good ones the file is given up


def open_media(file: BinaryIO) -> InputContainer:
    """The container of an open file. BadInput if it is no media, Transient if it can not be read.

    The caller closes both; the file must stay open as long as the container.
    """
    try:
        return av.open(
            _Nameless(file),
            "r",
            options=READ_OPTIONS,
            io_open=_refuse,
            metadata_errors="replace",
            buffer_size=READ_BLOCK,
        )
    except (av.FFmpegError, OSError) as error:
        raise read_error(error) from error


class _Nameless:
    """An open file without its name, which PyAV would hand on to FFmpeg."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


def _refuse(url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
    raise BadInput(f"the file wants to open another one: {shown(url)}", "drop the media itself")


def read_error(error: Exception) -> JobError:
    """FFmpeg's error is the file's own; any other OSError comes from the disk or the share."""
    if not isinstance(error, av.FFmpegError):
        return Transient(f"the file can not be read: {error}", "look at the disk or the share")
    if isinstance(error, MemoryError):
        return NoMemory("memory ran out while the file was read")
    return BadInput(
        "the file is not audio or video that FFmpeg can read",
        "check that it plays; if the copy was cut short, drop it again",
    )


def probe(file: BinaryIO) -> MediaFacts:
    """What an open file says that it holds; BadInput if it is no media or holds no track."""
    with open_media(file) as container:
        audio = tuple(
            AudioTrack(
                index=index,
                codec=stream.codec_context.name if stream.codec_context else "unknown",
                rate=stream.codec_context.sample_rate if stream.codec_context else 0,
                channels=stream.codec_context.channels if stream.codec_context else 0,
                language=stream.language or "",
            )
            for index, stream in enumerate(container.streams.audio)
        )
        video = tuple(
            VideoTrack(
                index=index,
                codec=stream.codec_context.name if stream.codec_context else "unknown",
                width=stream.codec_context.width if stream.codec_context else 0,
                height=stream.codec_context.height if stream.codec_context else 0,
                fps=float(stream.average_rate) if stream.average_rate else None,
                frames=stream.frames,
                attached_picture=bool(stream.disposition & stream.disposition.attached_pic),
            )
            for index, stream in enumerate(container.streams.video)
        )
        if not audio and not video:
            raise BadInput("the file has neither sound nor picture", "drop audio or video")
        return MediaFacts(
            container=container.format.name,
            seconds=_seconds(container),
            audio=audio,
            video=video,
        )


def _seconds(container: InputContainer) -> float | None:
    return container.duration / av.time_base if container.duration else None


def pick_audio(container: InputContainer, track: int) -> AudioStream:
    """The audio stream of that number; BadInput if there is none."""
    streams = container.streams.audio
    if not streams:
        raise BadInput("the file has no sound", "drop a file with an audio track")
    if track >= len(streams):
        raise BadInput(
            f"the file has no audio track {track}",
            f"it has {len(streams)}; tracks count from 0",
        )
    stream = streams[track]
    if stream.codec_context is None:
        raise BadInput(
            f"FFmpeg knows no decoder for audio track {track}", "convert it to WAV or FLAC"
        )
    return stream


class AudioReader:
    """One sound track as a stream of float32 blocks of shape (samples, channels), -1 to 1.

    Time 0 is the start of the container, so the sound of a film keeps its place under the
    picture: a late start and lost packets become silence (up to 10 min each), overlaps of up to
    a second are dropped, greater jumps are taken for a broken clock and change nothing.
    Memory does not grow with length. Damaged packets are skipped and counted in `errors`; iterating
    raises BadInput if nothing at all could be decoded, Transient if the file can not be read.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        rate: int,
        channels: int,
        track: int = 0,
        block_seconds: float = 1.0,
    ) -> None:
        if channels not in (1, 2):
            raise ValueError(f"channels must be 1 or 2, not {channels}")
        self.rate = rate
        self.channels = channels
        self.samples = 0  # given out so far, per channel
        self.errors = 0  # damaged packets and broken timestamps
        self._block = max(1, round(rate * block_seconds))
        self._container = open_media(file)
        try:
            self._stream = pick_audio(self._container, track)
        except JobError:
            self._container.close()
            raise
        self.seconds_expected = _seconds(self._container)
        self._clock = SoundClock((self._container.start_time or 0) / av.time_base)
        self._decoded = 0  # samples that came out of the decoder
        self._good = 0  # packets that could be decoded

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the container; the file stays open."""
        self._container.close()

    def __iter__(self) -> Iterator[Samples]:
        held: list[Samples] = []
        count = 0
        for piece in self._pieces():
            held.append(piece)
            count += len(piece)
            if count < self._block:
                continue
            whole = np.concatenate(held)
            full = count - count % self._block
            for start in range(0, full, self._block):
                self.samples += self._block
                yield whole[start : start + self._block]
            held, count = [whole[full:].copy()], count - full
        if not self._decoded:
            raise BadInput(
                "no sound could be decoded from the file", "check that it plays in a media player"
            )
        if count:
            self.samples += count
            yield np.concatenate(held)

    def _pieces(self) -> Iterator[Samples]:
        """Resampled sound and the silence between, in pieces of any size."""
        resampler = _Resampler(self.rate, self.channels)
        for frame in self._frames():
            step = self._clock.step(frame.time, frame.samples, frame.sample_rate)
            self.errors += step.broken
            if step.silence > 0.0:
                yield from resampler.flush()
                yield from self._silence(step.silence)
            if step.keep:
                yield from resampler.feed(frame)
        yield from resampler.flush()

    def _silence(self, seconds: float) -> Iterator[Samples]:
        left = round(seconds * self.rate)
        while left > 0:
            count = min(left, self._block)
            yield np.zeros((count, self.channels), np.float32)
            left -= count

    def _frames(self) -> Iterator[av.AudioFrame]:
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    if isinstance(error, av.EOFError):
                        return
                    self._count_damage()
                    continue
                self._good += 1
                for frame in frames:
                    if frame.samples and frame.sample_rate:
                        self._decoded += frame.samples
                        yield frame
        except av.FFmpegError as error:
            if not self._decoded:
                raise read_error(error) from error
            self.errors += 1  # the container breaks off here; what came before is good
        except OSError as error:
            raise read_error(error) from error

    def _count_damage(self) -> None:
        self.errors += 1
        if self.errors > max(MAX_ERRORS, self._good):
            raise BadInput(
                f"the sound is too damaged: {self.errors} packets could not be decoded",
                "check that it plays; if the copy went wrong, drop it again",
            )


def decode_audio(
    file: BinaryIO, *, rate: int, channels: int, track: int = 0, block_seconds: float = 1.0
) -> Iterator[Samples]:
    """Float32 blocks of shape (samples, channels) of about block_seconds; see AudioReader."""
    with AudioReader(
        file, rate=rate, channels=channels, track=track, block_seconds=block_seconds
    ) as reader:
        yield from reader


class _Resampler:
    """FFmpeg's resampler, made anew whenever the sound changes its form or has a gap."""

    def __init__(self, rate: int, channels: int) -> None:
        self._rate = rate
        self._channels = channels
        self._form: tuple[str, str, int] | None = None
        self._inner: av.AudioResampler | None = None

    def feed(self, frame: av.AudioFrame) -> Iterator[Samples]:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            yield from self.flush()
        if self._inner is None:
            self._form = form
            self._inner = av.AudioResampler(
                format="flt",
                layout="mono" if self._channels == 1 else "stereo",
                rate=self._rate,
                options={"rematrix_maxval": "1.0"},  # a mixdown must not clip
            )
        for done in self._inner.resample(frame):
            yield self._plain(done)

    def flush(self) -> Iterator[Samples]:
        inner, self._inner = self._inner, None
        if inner is not None:
            for done in inner.resample(None):
                if done is not None:  # what passes through unchanged has nothing to flush
                    yield self._plain(done)

    def _plain(self, frame: av.AudioFrame) -> Samples:
        array = frame.to_ndarray().reshape(-1, self._channels).astype(np.float32)
        np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return np.clip(array, -1.0, 1.0, out=array)
