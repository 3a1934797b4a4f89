"""Whether there is room for another job: to take one up, and to start one (pure)."""

import msgspec

from pipeline.core.text import human_bytes

LEAVE_LOW = 1.1  # the low state ends only this far above its limit, so that it does not flicker


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about room. Sizes in bytes; `free_bytes` is of the fullest disk concerned."""

    open_jobs: int
    size: int  # the queue's bound
    paused: bool  # by a person
    free_bytes: int
    low_bytes: int  # below it nothing new is taken up
    stop_bytes: int  # below it nothing is started either
    low: bool = False  # already in the low state


class Go(msgspec.Struct, frozen=True):
    """There is room."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Not now: why in plain words, and whether the disk is in the low state."""

    why: str
    low: bool = False


def admission(room: Room) -> Go | Hold:
    """Whether a settled file may be admitted. What is held waits in its inbox, nothing is lost.

    A pause holds nothing here: a file that arrives meanwhile gets its place in the queue.
    """
    # 1. A disk runs low: what is admitted already needs the rest.
    if _is_low(room):
        return Hold(
            why=f"{human_bytes(room.free_bytes)} free on a disk that needs "
            f"{human_bytes(_limit(room))}: new files wait in their folders",
            low=True,
        )
    # 2. The queue's window is full.
    if room.open_jobs >= room.size:
        return Hold(
            why=f"the queue is full ({room.open_jobs} of {room.size}): "
            "new files wait in their folders"
        )
    # 3. Room on disk and in the queue.
    return Go()


def claiming(room: Room) -> Go | Hold:
    """Whether a queued job may be started."""
    low = _is_low(room)
    # 1. A person said so.
    if room.paused:
        return Hold(why="paused: nothing is started until `penstock resume`", low=low)
    # 2. A disk is all but full: a result could not be written whole.
    if room.free_bytes < room.stop_bytes:
        return Hold(
            why=f"{human_bytes(room.free_bytes)} free on a disk that needs "
            f"{human_bytes(room.stop_bytes)}: nothing is started",
            low=low,
        )
    # 3. Nothing stands against it; a low disk alone does not hold what is admitted already.
    return Go()


def _is_low(room: Room) -> bool:
    return room.free_bytes < _limit(room)


def _limit(room: Room) -> float:
    return room.low_bytes * LEAVE_LOW if room.low else room.low_bytes
