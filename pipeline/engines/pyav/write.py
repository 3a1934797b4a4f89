"""Writing with PyAV: one video of frames and sound, streamed, whole or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO, NamedTuple, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.core.errors import JobError, NoMemory, NoSpace, Transient
from pipeline.core.files import FULL, remove_if_there, temp_beside
from pipeline.core.media import AudioTrack
from pipeline.core.text import shown
from pipeline.engines.pyav.read import Samples, open_media, pick_audio, read_error

WRITE_BLOCK = 262144  # bytes handed to the file at a time
AAC_BITS = 96_000  # a second and channel
ENCODERS = {
    # ultrafast, but with the two steps that cost 4 % more time and save 28 % of the size
    "libx264": {"preset": "ultrafast", "coder": "cabac", "deblock": "0:0", "crf": "23"},
    "h264_nvenc": {"preset": "p4", "rc": "vbr", "cq": "23"},
}


class VideoForm(NamedTuple):
    """The picture of a video to write: size in pixels (even), frames a second, encoder."""

    width: int
    height: int
    fps: int
    codec: str  # libx264 or h264_nvenc


class SoundForm(NamedTuple):
    """Sound that is handed over as samples and becomes AAC: rate in Hz, 1 or 2 channels."""

    rate: int
    channels: int


class EncoderRefused(Exception):
    """The video encoder does not open or does not go on; the text is FFmpeg's."""


class SoundRefused(Exception):
    """The mp4 does not take the source's sound as it is."""


def can_copy(track: AudioTrack) -> bool:
    """Whether an mp4 takes this sound as it is."""
    # Below 16 kHz MP3 is outside the mp4 standard, and the muxer refuses it.
    return track.codec == "aac" or (track.codec in ("mp3", "mp3float") and track.rate >= 16000)


class SoundCopy:
    """The packets of one sound track of an open file, on the clock that AudioReader uses."""

    def __init__(self, file: BinaryIO, track: int = 0) -> None:
        self._container = open_media(file)
        try:
            self.stream = pick_audio(self._container, track)
            base = self.stream.time_base or Fraction(1, av.time_base)
            self._origin = round(
                Fraction(self._container.start_time or 0, av.time_base) / base
            )  # in ticks of the stream
            self._packets = self._container.demux(self.stream)
        except JobError:
            self.close()
            raise
        self._next: av.Packet[AudioStream] | None = None
        self.errors = 0  # the container broke off, or packets without a time

    def close(self) -> None:
        """Let go of the container; the file stays open."""
        self._container.close()

    def until(self, seconds: float) -> Iterator["av.Packet[AudioStream]"]:
        """The packets that begin before `seconds` and were not given yet."""
        while packet := self._next or self._read():
            at = packet.pts
            if at is not None and at * (packet.time_base or 0) >= seconds:
                self._next = packet
                return
            self._next = None
            yield packet

    def _read(self) -> "av.Packet[AudioStream] | None":
        try:
            for packet in self._packets:
                if packet.size == 0:
                    continue  # the flush at the end
                if packet.pts is None or packet.dts is None:
                    self.errors += 1
                    continue
                packet.pts -= self._origin
                packet.dts -= self._origin
                return packet
        except av.FFmpegError:
            self.errors += 1
        except OSError as error:
            raise read_error(error) from error
        return None


class VideoWriter:
    """One mp4 (H.264 and sound), whole under its name after `finish` or not there at all.

    Draw into `canvas`, uint8 of shape (height * 3 / 2, width): the planes of yuv420p one below the
    other, BT.709, limited range; `write_frame` encodes what it shows. Hand over the sound about
    every half second, so that neither track has to wait for the other in memory. The encoder opens
    here, before any work is done: EncoderRefused if it does not. NoSpace if the disk is full.
    """

    def __init__(self, path: bytes, form: VideoForm, sound: SoundForm | SoundCopy) -> None:
        self.frames = 0
        self.sound_errors = 0  # packets that the mp4 did not take
        self.canvas = np.zeros((form.height * 3 // 2, form.width), np.uint8)
        self._path = path
        self._part = temp_beside(path)
        self._form = form
        self._sound = sound
        self._heard = 0  # samples given to the AAC encoder
        self._copied = 0  # packets
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._errors():
            self._file = os.fdopen(os.open(self._part, flags, 0o666), "wb", buffering=0)
        self._container = av.open(
            self._file,
            "w",
            format="mp4",
            container_options={"movflags": "+faststart"},
            io_open=self._reopen,
            buffer_size=WRITE_BLOCK,
        )
        try:
            with self._errors():
                self._open_streams()
        except BaseException:
            self.abort()
            raise

    def _reopen(self, _url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
        """The muxer reads its own file once, to move the index to the front."""
        return open(self._part, "rb")

    def _open_streams(self) -> None:
        self._video = cast(
            VideoStream, self._container.add_stream(self._form.codec, self._form.fps)
        )
        _tune(self._video.codec_context, self._form)
        self._audio: AudioStream
        if isinstance(self._sound, SoundCopy):
            self._audio = self._container.add_stream_from_template(self._sound.stream)
        else:
            rate, channels = self._sound
            layout = "mono" if channels == 1 else "stereo"
            self._audio = self._container.add_stream("aac", rate, layout=layout)
            self._audio.codec_context.bit_rate = AAC_BITS * channels
        self._video.codec_context.open()  # alone, to know who refuses
        try:
            self._container.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            if isinstance(self._sound, SoundCopy) and getattr(error, "errno", None) not in FULL:
                raise SoundRefused(str(error)) from error
            raise
        # x264 copies each picture, so one frame around the canvas serves all; it is not known that
        # every card's driver does, so others get copies.
        self._frame = _frame_around(self.canvas) if self._form.codec == "libx264" else None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._file.closed:  # not finished
            self.abort()

    def write_frame(self) -> None:
        """Encode what the canvas shows as the next frame."""
        frame = self._frame or _frame_around(self.canvas.copy())
        frame.pts = self.frames
        frame.time_base = Fraction(1, self._form.fps)
        with self._errors():
            self._container.mux(self._video.encode(frame))
        self.frames += 1

    def write_sound(self, block: Samples) -> None:
        """Encode samples of shape (samples, channels), in the form that was announced."""
        assert isinstance(self._sound, SoundForm)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(block.T), "fltp", "mono" if block.shape[1] == 1 else "stereo"
        )
        frame.sample_rate = self._sound.rate
        frame.time_base = Fraction(1, self._sound.rate)
        frame.pts = self._heard
        self._heard += len(block)
        with self._errors():
            self._container.mux(self._audio.encode(frame))

    def copy_sound(self, until: float) -> None:
        """Copy the source's packets that begin before `until` seconds."""
        assert isinstance(self._sound, SoundCopy)
        for packet in self._sound.until(until):
            packet.stream = self._audio
            try:
                with self._errors():
                    self._container.mux(packet)
                self._copied += 1
            except EncoderRefused as refused:  # a damaged packet; the sound goes on behind it
                self.sound_errors += 1
                if self.sound_errors > max(10, self._copied):
                    raise SoundRefused(str(refused)) from refused

    def finish(self) -> None:
        """Write what is still in the encoders and the index; durable and under its name then."""
        with self._errors():
            self._container.mux(self._video.encode(None))
            if isinstance(self._sound, SoundForm):
                self._container.mux(self._audio.encode(None))
            self._container.close()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self._path)

    def abort(self) -> None:
        """Leave nothing behind."""
        self._file.close()  # first: a container whose file is closed writes no index
        self._container.close()
        remove_if_there(self._part)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """FFmpeg's errors and the disk's as ours."""
        try:
            yield
        except MemoryError as error:
            raise NoMemory("memory ran out while the video was written") from error
        except (av.FFmpegError, OSError) as error:
            if error.errno in FULL:
                raise NoSpace(
                    f"no room for {shown(os.path.basename(self._path))}",
                    "free some space on the outbox's disk",
                ) from error
            if isinstance(error, av.FFmpegError):
                raise EncoderRefused(error.strerror or str(error)) from error
            raise Transient(f"the video can not be written: {error}") from error


def _tune(context: VideoCodecContext, form: VideoForm) -> None:
    """Set up an encoder: size, rate, speed and the colours that players expect of HD."""
    context.width, context.height, context.pix_fmt = form.width, form.height, "yuv420p"
    context.framerate, context.time_base = Fraction(form.fps), Fraction(1, form.fps)
    context.bit_rate = 0  # the encoder's constant quality rules
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.colorspace = Colorspace.ITU709
    context.color_range = ColorRange.MPEG
    context.options = ENCODERS[form.codec]
    if form.codec == "libx264":
        # Frame threads; each costs about 13 MB at 1080p, and a few outrun what draws the frames.
        context.thread_type, context.thread_count = "AUTO", min(6, os.cpu_count() or 1)


def _frame_around(canvas: NDArray[np.uint8]) -> av.VideoFrame:
    frame = av.VideoFrame.from_numpy_buffer(canvas, "yuv420p")
    frame.color_primaries, frame.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
    return frame


def trial(codec: str) -> str:
    """Encode five frames; empty if packets came out, else FFmpeg's own words, one a line."""
    form = VideoForm(640, 360, 30, codec)
    canvas = np.full((form.height * 3 // 2, form.width), 128, np.uint8)
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as log:
        try:
            context = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
            _tune(context, form)
            packets = []
            for index in range(5):
                frame = _frame_around(canvas)
                frame.pts, frame.time_base = index, Fraction(1, form.fps)
                packets += context.encode(frame)
            packets += context.encode(None)
            error = "" if packets else "no packet came out"
        except av.FFmpegError as refused:
            error = str(refused)
    if not error:
        return ""
    return "\n".join([message.strip() for _level, _name, message in log] or [error])
