"""How tight memory is: our share of what we could have, and the tier that follows, with hysteresis.

A neighbour that fills the card makes our share grow only if we hold something, so it can not pause
us for ever; and nothing waits without a deadline: emergency → paused → a fresh worker → the CPU.
Pure: readings and the time are arguments.
"""

from enum import StrEnum
from math import inf

import msgspec

from pipeline.core.reading import Reading

BACK_OFF = (0.08, 0.08, 0.10)


class Tier(StrEnum):
    """How tight it is. In the last two nothing new is admitted, and a deadline runs."""

    NORMAL = "normal"
    STANDARD = "standard"  # clean up after this stage
    AGGRESSIVE = "aggressive"  # also give back idle models; the next batch at most half
    EMERGENCY = "emergency"  # drop everything that is not in use
    PAUSED = "paused"  # that did not help; wait


class Action(StrEnum):
    """What to do now; said once, when it begins to hold."""

    STANDARD = "standard"  # standard cleanup
    AGGRESSIVE = "aggressive"  # aggressive cleanup
    EMERGENCY = "emergency"  # emergency cleanup, admit nothing; say `cleaned` with the next step
    PAUSE = "pause"  # wait: the cleanup did not help
    RECYCLE = "recycle"  # waited long enough: replace the worker by a fresh one
    CPU = "cpu"  # that did not help either: go on without the card; said again at each deadline
    RESUME = "resume"  # admit again


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Where each tier begins and ends. The tuples are for standard, aggressive and emergency.

    A tier begins after so many `samples` in a row at its limit or above, and ends after so many
    `hold_seconds` in a row below limit − back-off. Two changes lie at least `apart_seconds` from
    each other; only emergency never waits for that. Raises ValueError for limits in a wrong order.
    """

    standard: float = 0.70
    aggressive: float = 0.80
    emergency: float = 0.90
    back_off: tuple[float, float, float] = BACK_OFF
    hold_seconds: tuple[float, float, float] = (5.0, 5.0, 10.0)
    samples: tuple[int, int, int] = (2, 2, 1)
    pause_seconds: float = 120.0
    apart_seconds: float = 10.0
    stalled_percent: float = 10.0  # PSI "full avg10" above it is an emergency too

    def __post_init__(self) -> None:
        if not 0.0 < self.standard < self.aggressive < self.emergency <= 1.0:
            raise ValueError(
                "memory limits must rise from standard over aggressive to emergency, within 0 to 1"
            )
        if not all(
            0.0 <= gap < limit for gap, limit in zip(self.back_off, self.enter, strict=True)
        ):
            raise ValueError("each back-off must be at least 0 and smaller than its limit")
        if min(self.samples) < 1 or not 0.0 < self.pause_seconds < inf:
            raise ValueError("samples must be at least 1, and a pause must end")

    @property
    def enter(self) -> tuple[float, float, float]:
        """The three limits in order."""
        return (self.standard, self.aggressive, self.emergency)


LIMITS = Limits()  # of the card
HOST_LIMITS = Limits(standard=0.75, aggressive=0.85, emergency=0.92)  # of host RAM


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tiers stand; the times are monotonic seconds. `deadline` is set exactly while
    nothing is admitted.
    """

    tier: Tier = Tier.NORMAL
    changed: float | None = None  # when the tier last changed
    above: tuple[int, int, int] = (0, 0, 0)  # samples in a row at each limit or above
    below_since: float | None = None  # since when the share is low enough to leave the tier
    deadline: float | None = None  # of the wait; then a fresh worker, then the CPU
    recycled: bool = False  # the fresh worker has been asked for

    @property
    def admits(self) -> bool:
        """Whether new work may start on this memory."""
        return self.deadline is None

    def batch(self, wanted: int) -> int:
        """The batch that may run next: at most half of what is wanted when it is tight."""
        tight = self.tier not in (Tier.NORMAL, Tier.STANDARD)
        return max(1, wanted // 2) if tight else wanted


_RANK = {tier: rank for rank, tier in enumerate(Tier)}
_CLIMBS = ((Tier.AGGRESSIVE, 1, Action.AGGRESSIVE), (Tier.STANDARD, 0, Action.STANDARD))


def capacity(reading: Reading, budget: int | None, reserve: int) -> int | None:
    """Bytes of the card that we could hold in all, never negative; None if it can not be told."""
    return _capacity(reading.own, reading.free, budget, reserve)


def share(reading: Reading, budget: int | None = None, reserve: int = 0) -> float | None:
    """What we hold of what we could hold, 0 to 1; None if it can not be told."""
    return _share(reading.own, reading.free, budget, reserve)


def host_share(reading: Reading, budget: int | None = None, reserve: int = 0) -> float | None:
    """As `share`, of host RAM."""
    return _share(reading.host_own, reading.host_free, budget, reserve)


def _capacity(own: int | None, free: int | None, budget: int | None, reserve: int) -> int | None:
    if free is None:
        return None if budget is None else max(0, budget)
    room = max(0, (own or 0) + free - reserve)
    return room if budget is None else max(0, min(budget, room))


def _share(own: int | None, free: int | None, budget: int | None, reserve: int) -> float | None:
    if own is None:
        return None
    if own <= 0:
        return 0.0  # whoever fills the memory, it is not us, and no cleanup of ours would help
    most = _capacity(own, free, budget, reserve)
    if most is None:
        return None
    return 1.0 if own >= most else own / most


def step(
    state: State,
    share: float | None,
    now: float,
    limits: Limits = LIMITS,
    *,
    stalled: float | None = None,
    cleaned: bool = False,
) -> tuple[State, Action | None]:
    """The state after one more sample, and what to do, if anything new.

    `share` is None if this sample could not be taken: then nothing is concluded from it, but
    deadlines run on. `stalled` is the PSI figure in percent, for host RAM. `cleaned` says that the
    emergency cleanup was done. The card and the host each have a state of their own.
    """
    state = _counted(state, share, limits)
    urgent = state.above[2] >= limits.samples[2] or (stalled or 0.0) > limits.stalled_percent
    if state.deadline is not None:
        calm = share is not None and not urgent and share < limits.emergency - limits.back_off[2]
        return _waiting(_settling(state, calm, now), share, now, limits, cleaned)
    if urgent:
        begun = _moved(state, Tier.EMERGENCY, now)
        return _with(begun, deadline=now + limits.pause_seconds), Action.EMERGENCY
    return _ordinary(state, share, now, limits)


def _counted(state: State, share: float | None, limits: Limits) -> State:
    first, second, third = (
        count + 1 if share is not None and share >= limit else 0
        for count, limit in zip(state.above, limits.enter, strict=True)
    )
    return _with(state, above=(first, second, third))


def _waiting(
    state: State, share: float | None, now: float, limits: Limits, cleaned: bool
) -> tuple[State, Action | None]:
    """Emergency or paused: leave when it is calm, else go on to the next remedy in time."""
    if share is not None and _held(state, now, limits.hold_seconds[2], limits):
        return _with(_moved(state, _fitting(share, limits), now), deadline=None), Action.RESUME
    if state.deadline is not None and now >= state.deadline:
        paused = state if state.tier is Tier.PAUSED else _moved(state, Tier.PAUSED, now)
        longer = _with(paused, deadline=now + limits.pause_seconds, recycled=True)
        return longer, Action.CPU if state.recycled else Action.RECYCLE
    if cleaned and state.tier is Tier.EMERGENCY and state.below_since is None:
        return _moved(state, Tier.PAUSED, now), Action.PAUSE
    return state, None


def _ordinary(
    state: State, share: float | None, now: float, limits: Limits
) -> tuple[State, Action | None]:
    if state.tier is not Tier.NORMAL:
        rank = _RANK[state.tier] - 1
        level = limits.enter[rank] - limits.back_off[rank]
        state = _settling(state, share is not None and share < level, now)
        if share is not None and _held(state, now, limits.hold_seconds[rank], limits):
            return _moved(state, _fitting(share, limits), now), None
    for tier, rank, action in _CLIMBS:
        enough = state.above[rank] >= limits.samples[rank]
        if enough and _RANK[tier] > _RANK[state.tier] and _apart(state, now, limits):
            return _moved(state, tier, now), action
    return state, None


def _settling(state: State, low: bool, now: float) -> State:
    if not low:
        return _with(state, below_since=None)
    return state if state.below_since is not None else _with(state, below_since=now)


def _held(state: State, now: float, seconds: float, limits: Limits) -> bool:
    since = state.below_since
    return since is not None and now - since >= seconds and _apart(state, now, limits)


def _apart(state: State, now: float, limits: Limits) -> bool:
    return state.changed is None or now - state.changed >= limits.apart_seconds


def _fitting(share: float, limits: Limits) -> Tier:
    if share >= limits.aggressive:
        return Tier.AGGRESSIVE
    return Tier.STANDARD if share >= limits.standard else Tier.NORMAL


def _moved(state: State, tier: Tier, now: float) -> State:
    return State(
        tier=tier,
        changed=now,
        above=state.above,
        deadline=state.deadline,
        recycled=state.recycled and tier is Tier.PAUSED,
    )


def _with(state: State, **fields: object) -> State:
    return msgspec.structs.replace(state, **fields)
