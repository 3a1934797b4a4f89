"""When a worker has aged and should be replaced by a fresh one, between two files; pure.

Only the end of a process gives back what libraries keep: fragments, contexts, workspaces, leaks.
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import median

import msgspec

from pipeline.core.reading import Reading
from pipeline.core.text import human_bytes, shown

MIB = 1 << 20


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a worker after a cleanup; None where it can not be known. Sizes in bytes."""

    age_seconds: float = 0.0
    files: int = 0
    allocated: int | None = None  # by the framework, alive
    reserved: int | None = None  # by the framework, held
    capacity: int | None = None  # of the card, for us
    outside_at_start: int | None = None  # see `outside`, once the first models are warm
    outside: int | None = None
    floors: tuple[int, ...] = ()  # our share of the card after each file's cleanup, oldest first
    residents: tuple[int, ...] = ()  # our RAM after each file's cleanup, oldest first
    host_limit: int | None = None  # RAM that we could have at most
    surviving: tuple[str, ...] = ()  # models that were unloaded and are still alive
    sticky: str = ""  # an error after which this process can not use the card; empty: none


class RecycleLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much age is too much. Sizes in bytes."""

    fragmented: float = 0.20  # of capacity, held but not in use
    outside_growth: int = 512 * MIB
    window: int = 30  # files over which a leak is judged
    card_per_file: int = 5 * MIB
    ram_per_file: int = 10 * MIB
    ram_share: float = 0.60  # of the host limit
    files: int = 500
    hours: float = 24.0


LIMITS = RecycleLimits()


def reason_to_recycle(life: Life, limits: RecycleLimits = LIMITS) -> str:
    """Why this worker should be replaced, in plain words with the figures; empty: it may stay."""
    rules = (_broken, _kept, _fragmented, _outside, _leaking_card, _leaking_ram, _old)
    return next((reason for rule in rules if (reason := rule(life, limits))), "")


def _broken(life: Life, _limits: RecycleLimits) -> str:
    return f"the card's context is broken: {shown(life.sticky)}" if life.sticky else ""


def _kept(life: Life, _limits: RecycleLimits) -> str:
    if not life.surviving:
        return ""
    return f"still alive after it was unloaded: {shown(', '.join(life.surviving))}"


def _fragmented(life: Life, limits: RecycleLimits) -> str:
    if life.reserved is None or life.allocated is None or not life.capacity:
        return ""
    idle = life.reserved - life.allocated
    part = idle / life.capacity
    if part <= limits.fragmented:
        return ""
    return f"fragmented: {human_bytes(idle)} held but not in use, {100 * part:.0f} % of the card"


def _outside(life: Life, limits: RecycleLimits) -> str:
    if life.outside is None or life.outside_at_start is None:
        return ""
    grown = life.outside - life.outside_at_start
    if grown <= limits.outside_growth:
        return ""
    return f"memory outside the framework has grown by {human_bytes(grown)}"


def _leaking_card(life: Life, limits: RecycleLimits) -> str:
    rise = _rise(life.floors, limits.window)
    if rise <= limits.card_per_file:
        return ""
    return f"the card's memory leaks: {human_bytes(rise)} a file over {limits.window} files"


def _leaking_ram(life: Life, limits: RecycleLimits) -> str:
    rise = _rise(life.residents, limits.window)
    if rise > limits.ram_per_file:
        return f"RAM leaks: {human_bytes(rise)} a file over {limits.window} files"
    held = life.residents[-1] if life.residents else 0
    if life.host_limit and held > limits.ram_share * life.host_limit:
        return f"RAM: {human_bytes(held)} held, of {human_bytes(life.host_limit)} that there are"
    return ""


def _old(life: Life, limits: RecycleLimits) -> str:
    if life.files >= limits.files:
        return f"{life.files} files done"
    hours = life.age_seconds / 3600
    return f"{hours:.0f} hours old" if hours >= limits.hours else ""


def _rise(values: Sequence[int], window: int) -> float:
    return slope(values[-window:]) if len(values) >= window else 0.0


def slope(values: Sequence[float]) -> float:
    """The typical rise from one value to the next: the median over all pairs (Theil–Sen).

    A few outliers do not move it. 0 for fewer than two values; the work grows with their square.
    """
    pairs = combinations(enumerate(values), 2)
    return float(median((b - a) / (j - i) for (i, a), (j, b) in pairs)) if len(values) > 1 else 0.0


def outside(reading: Reading) -> int | None:
    """Bytes that we hold on the card outside the framework: contexts, workspaces, other libraries.

    None if our share is only an estimate: a neighbour's growth would look like ours.
    """
    if reading.own is None or reading.reserved is None or reading.own_estimated or reading.unified:
        return None
    return max(0, reading.own - reading.reserved)
