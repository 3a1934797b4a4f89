"""Decodes a file's sound once, to raw 16 kHz mono that every later stage reads from the disk."""

import os

import msgspec
import numpy as np

from pipeline.core.errors import BadInput, NoSpace
from pipeline.core.files import FULL, remove_if_there, write_all, write_whole
from pipeline.core.recipes import TranscribeOptions
from pipeline.core.speech import RATE, SOUND, SOUND_FACTS, Sound
from pipeline.core.stage import StageResult, Work
from pipeline.engines import pyav

LANE = "cpu"
FULL_SCALE = 32768.0


def run(work: Work) -> StageResult:
    """Leave `audio.s16` and `audio.json`; memory does not grow with the recording's length."""
    options = work.options
    assert isinstance(options, TranscribeOptions)
    target = work.artefact(SOUND)
    try:
        sound = _decode(work, target, options.track)
    except OSError as error:
        remove_if_there(target)
        if error.errno in FULL:
            raise NoSpace(
                "no room for the decoded sound in the state folder",
                "free some space on its disk: an hour of sound needs 115 MB",
            ) from error
        raise
    facts = work.artefact(SOUND_FACTS)
    write_whole(facts, msgspec.json.encode(sound))
    return StageResult(
        engine=f"pyav {pyav.VERSION}",
        facts=msgspec.to_builtins(sound),
        artefacts=(target, facts),
    )


def _decode(work: Work, target: bytes, track: int) -> Sound:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with work.open_source() as source:
        held = pyav.probe(source)
        source.seek(0)
        with (
            pyav.AudioReader(source, rate=RATE, channels=1, track=track) as reader,
            os.fdopen(os.open(target, flags, 0o666), "wb", buffering=0) as out,
        ):
            expected = reader.seconds_expected
            for block in reader:
                samples = np.rint(block[:, 0] * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1)
                write_all(out, samples.astype("<i2").tobytes())
                done = reader.samples / RATE
                work.beat(min(1.0, done / expected) if expected else None)
            samples_out, errors = reader.samples, reader.errors
    if not samples_out:
        raise BadInput("the file's sound is empty", "drop a recording with sound in it")
    return Sound(
        seconds=samples_out / RATE,
        samples=samples_out,
        rate=RATE,
        errors=errors,
        container=held.container,
        codec=held.audio[track].codec,
    )
