"""Real sound and film files for tests, made on the spot."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

Samples = NDArray[np.float32]


def tone(seconds: float, rate: int = 48_000, channels: int = 1, hertz: float = 440.0) -> Samples:
    """A sine of amplitude 0.5, shape (samples, channels)."""
    times = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * hertz * times)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def bursts(seconds: float, at: Sequence[float], rate: int = 48_000) -> Samples:
    """Silence with 60 ms of noise that begins at each of the given times."""
    rng = np.random.default_rng(1)
    sound = np.zeros((round(seconds * rate), 1), np.float32)
    long = round(0.06 * rate)
    for start in at:
        first = round(start * rate)
        sound[first : first + long, 0] = rng.uniform(-0.7, 0.7, long)
    return sound


LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def write_sound(
    path: Path, samples: Samples, rate: int, codec: str, *, cover: bool = False, late: float = 0.0
) -> Path:
    """Encode samples in the container that the suffix names; `late` shifts the sound's start.

    With `late` a film track of as many seconds begins at 0, so that the file begins there too.
    """
    with av.open(str(path), "w") as out:
        stream = cast(AudioStream, out.add_stream(codec, rate, layout=LAYOUTS[samples.shape[1]]))
        picture = out.add_stream("mpeg4", 25, width=64, height=64) if late else None
        if cover:
            art = out.add_stream("png", 1, width=64, height=64, pix_fmt="rgb24")
            art.disposition = av.stream.Disposition.attached_pic
        out.start_encoding()
        if cover:
            still = av.VideoFrame(64, 64, "rgb24")
            out.mux(art.encode(still))
            out.mux(art.encode(None))
        if picture is not None:
            for _index in range(round(late * 25)):
                out.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
            out.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T), "fltp", LAYOUTS[samples.shape[1]]
        )
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = round(late * rate)
        for data in (frame, None):
            out.mux(stream.encode(data))
    return path


def write_silent_film(path: Path) -> Path:
    """A film of five frames without a sound track."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", 25, width=64, height=64)
        for _index in range(5):
            out.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
        out.mux(picture.encode(None))
    return path


class BrokenShare(io.RawIOBase):
    """An open file that answers EIO after some reads, like a share that went away."""

    def __init__(self, path: Path, reads: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by close
        self._left = reads

    def read(self, size: int = -1) -> bytes | None:
        self._left -= 1
        if self._left < 0:
            raise OSError(5, "Input/output error")
        return self._file.read(size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()
