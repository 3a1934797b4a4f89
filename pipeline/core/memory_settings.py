"""[memory] of the config: how much may be used, when to clean up, when to begin afresh.

It lies on the ground floor because the worker gets it from the daemon as it is.
"""

from typing import Annotated, Literal

import msgspec

Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Size = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]
Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """[memory]. Shares are of what we could have at all (see gpu/pressure.py)."""

    profile: Literal[
        "auto", "rtx3060", "high_performance", "balanced", "max_stability", "high_end",
        "mid_range", "cpu_only",
    ] = "auto"  # fmt: skip
    budget_gb: Size = 0.0  # of the card, at most; 0: the profile says
    standard: Share = 0.70  # tiers of the card: standard cleanup,
    aggressive: Share = 0.80  # aggressive cleanup,
    emergency: Share = 0.90  # emergency cleanup and a pause
    host_standard: Share = 0.75  # the same for the host's RAM
    host_aggressive: Share = 0.85
    host_emergency: Share = 0.92
    pause_seconds: Seconds = 120.0  # a pause is never longer; then a fresh worker, then the CPU
    cleanup_every: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2  # videos
    oom_share: Share = 0.25  # of the batch, for the retry after memory ran out
    recycle_files: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 500  # then a fresh worker
    recycle_hours: Annotated[float, msgspec.Meta(gt=0.0, le=8760.0)] = 24.0
