"""The plain values of memory: readings, features, plans; sizes in bytes, times in seconds."""

import msgspec

from pipeline.core.reading import Reading as Reading  # as: others take it from here

GIB = 1 << 30
MIB = 1 << 20


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What a learned peak depends on; a change of any part starts anew."""

    stage: str
    model: str = ""
    dtype: str = ""
    device: str = "cpu"  # the card's name, or "cpu"
    versions: str = ""  # of the libraries and the driver, joined


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What of a job drives its memory."""

    seconds: float = 0.0  # of media
    pixels: int = 0  # of one frame
    frames: int = 0


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a stage: how much it took at its highest, or that it ran out (censored)."""

    batch: int
    features: Features
    peak: int  # bytes; for an OOM a lower bound
    seconds: float
    oom: bool = False
