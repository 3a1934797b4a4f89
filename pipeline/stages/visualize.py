"""Turns sound into a video whose bars move with it, frame by frame in flat memory."""

import time
from contextlib import ExitStack, closing
from typing import Any

from pipeline.core.errors import BadInput, Transient
from pipeline.core.media import AudioTrack
from pipeline.core.recipes import VisualizeOptions
from pipeline.core.stage import StageResult, Work
from pipeline.engines.encoder_probe import EncoderChoice, pick_encoder
from pipeline.engines.pyav import (
    VERSION,
    AudioReader,
    EncoderRefused,
    SoundCopy,
    SoundForm,
    SoundRefused,
    VideoForm,
    VideoWriter,
    can_copy,
    probe,
)
from pipeline.media.canvas import BarsPicture
from pipeline.media.spectrum import BandStream, Floats, Motion

LANE = "gpu"
BLOCK_SECONDS = 0.5  # of sound at a time; also how finely sound and picture interleave
BEAT_FRAMES, BEAT_SECONDS = 30, 1.0  # a beat after so many frames or so long, what comes first


def run(work: Work) -> StageResult:
    """Write the drop's stem with `.mp4`; BadInput if the file has no sound that can be decoded."""
    options = work.options
    assert isinstance(options, VisualizeOptions)
    with work.open_source() as file:
        track = _pick_track(probe(file).audio, options.track)
    # An order for the CPU keeps away from the card without that being a fallback.
    wanted = "libx264" if work.order.device == "cpu" else options.encoder
    choice = pick_encoder(wanted)
    copied = can_copy(track)
    while True:
        try:
            facts = _render(work, options, track, choice.codec, copied=copied)
            break
        except SoundRefused:
            copied = False
        except EncoderRefused as refused:
            if choice.codec == "libx264":
                raise Transient(f"the video can not be encoded: {refused}") from refused
            reason = f"{choice.codec} worked in the trial but not for this video: {refused}"
            choice = EncoderChoice("libx264", reason)
    facts |= {"encoder": choice.codec, "encoder_reason": choice.reason}
    return StageResult(
        engine=f"PyAV {VERSION} ({choice.codec})",
        device="cuda" if choice.codec == "h264_nvenc" else "cpu",
        fallback=choice.reason,
        facts=facts,
        outputs=(work.output(".mp4"),),
    )


def _pick_track(tracks: tuple[AudioTrack, ...], wanted: int) -> AudioTrack:
    if not tracks:
        raise BadInput("the file has no sound", "drop a file with an audio track")
    if wanted >= len(tracks):
        raise BadInput(
            f"the file has no audio track {wanted}", f"it has {len(tracks)}; tracks count from 0"
        )
    return tracks[wanted]


def _render(
    work: Work, options: VisualizeOptions, track: AudioTrack, codec: str, *, copied: bool
) -> dict[str, Any]:
    """Make the whole video and look at it again; what was made, as plain values."""
    heard = SoundForm(44_100 if track.rate == 44_100 else 48_000, min(2, track.channels))
    form = VideoForm(options.width, options.height, options.fps, codec)
    with ExitStack() as stack:
        file = stack.enter_context(work.open_source())
        reader = stack.enter_context(
            AudioReader(
                file,
                rate=heard.rate,
                channels=heard.channels,
                track=options.track,
                block_seconds=BLOCK_SECONDS,
            )
        )
        copy = None
        if copied:
            twin = stack.enter_context(work.open_source())
            copy = stack.enter_context(closing(SoundCopy(twin, options.track)))
        writer = stack.enter_context(VideoWriter(work.output(".mp4"), form, copy or heard))
        film = _Film(work, options, writer, reader)
        for block in reader:
            film.show(film.bands.feed(block))
            if copy is None:
                writer.write_sound(block)
            else:
                writer.copy_sound(reader.samples / heard.rate)
        film.show(film.bands.finish())
        writer.finish()
    errors = reader.errors + writer.sound_errors
    _verify(work, writer.frames, options.fps, track)
    return {
        "frames": writer.frames,
        "fps": options.fps,
        "seconds": round(reader.samples / heard.rate, 3),
        "width": options.width,
        "height": options.height,
        "bars": film.bars,
        "audio": "copied" if copied else "aac",
        "audio_errors": errors,
    }


class _Film:
    """Draws levels of sound and writes the frames, with a beat now and then."""

    def __init__(
        self, work: Work, options: VisualizeOptions, writer: VideoWriter, reader: AudioReader
    ) -> None:
        self._picture = BarsPicture(
            writer.canvas,
            bands=options.bands,
            colour=options.colour,
            background=options.background,
        )
        self.bars = self._picture.layout.bars
        self.bands = BandStream(rate=reader.rate, fps=options.fps, bands=self.bars)
        self._motion = Motion(fps=options.fps, bands=self.bars)
        self._work = work
        self._writer = writer
        self._expected = (reader.seconds_expected or 0.0) * options.fps  # frames
        self._beat_frame, self._beat_time = 0, time.monotonic()

    def show(self, levels: Floats) -> None:
        """Write one frame for each row of levels."""
        for row in levels:
            self._motion.step(row)
            self._picture.draw(self._motion.heights, self._motion.peaks)
            self._writer.write_frame()
            self._beat()

    def _beat(self) -> None:
        frames, now = self._writer.frames, time.monotonic()
        if frames - self._beat_frame < BEAT_FRAMES and now - self._beat_time < BEAT_SECONDS:
            return
        self._beat_frame, self._beat_time = frames, now
        self._work.beat(min(1.0, frames / self._expected) if self._expected else None)


def _verify(work: Work, frames: int, fps: int, track: AudioTrack) -> None:
    """Open the finished file as a player would; Transient if it does not hold what was written."""
    with open(work.output(".mp4"), "rb", buffering=0) as file:
        facts = probe(file)
    found = facts.video[0].frames if facts.video else 0
    # A frame of AAC has up to 2048 samples; the sound may end with one begun.
    slack = 1.0 / fps + 2048 / min(track.rate, 44_100)
    drift = abs((facts.seconds or 0.0) - frames / fps)
    if found != frames or not facts.audio or drift > slack:
        raise Transient(
            f"the written video has {found} of {frames} frames and is {drift:.2f} s off",
            "look at the disk of the outbox",
        )
