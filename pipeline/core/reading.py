"""One look at memory: the card, our share of it, the host; a plain value."""

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a card and the host; None where it can not be known. Sizes in bytes.

    On a machine whose card and host share one memory (`unified`) there is one budget: `total` and
    `free` are the host's and `own` counts our RAM too.
    """

    at: float = 0.0  # monotonic seconds
    total: int | None = None  # the card's memory
    free: int | None = None  # as the driver says; never derived from `used`
    own: int | None = None  # our process tree's share
    own_estimated: bool = False  # from the fall of `free`, where the driver tells no processes
    listed: bool | None = None  # a process of ours stands in the driver's list
    others: int | None = None  # processes of other people in that list
    allocated: int | None = None  # by the framework, alive
    reserved: int | None = None  # by the framework, held
    gpu_percent: int | None = None  # of the card, whoever used it
    own_percent: int | None = None  # by our processes, the highest since the look before
    encoder_sessions: int | None = None  # open on the card, whoever's
    own_sessions: int | None = None  # of these, ours
    unified: bool = False  # card and host share one memory: one budget
    host_total: int | None = None  # or the smallest cgroup limit on our path
    host_free: int | None = None
    host_own: int | None = None  # resident memory of our process tree
    stalled: float | None = None  # PSI memory "full avg10", in %
