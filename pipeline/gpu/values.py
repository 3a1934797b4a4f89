"""The plain values of memory: readings, features, plans; sizes in bytes, times in seconds."""

import msgspec

GIB = 1 << 30
MIB = 1 << 20


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a card and the host; None where it can not be known. Sizes in bytes."""

    at: float = 0.0  # monotonic seconds
    total: int | None = None  # the card's memory
    free: int | None = None  # as the driver says; never derived from `used`
    own: int | None = None  # our process tree's share
    own_estimated: bool = False  # from the fall of `free`, where the driver tells no processes
    allocated: int | None = None  # by the framework, alive
    reserved: int | None = None  # by the framework, held
    gpu_percent: int | None = None
    encoder_sessions: int | None = None
    unified: bool = False  # card and host share one memory: one budget
    host_total: int | None = None  # or the smallest cgroup limit on our path
    host_free: int | None = None
    host_own: int | None = None  # resident memory of our process tree
    stalled: float | None = None  # PSI memory "full avg10", in %


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
