"""What each memory profile allows, as data, and which one fits a machine; GB are powers of ten."""

import msgspec

GB = 1_000_000_000
LONG_FILM = 2 * 3600  # seconds
MEDIUM_FILM = 90 * 60


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Where batches start and end before anything is learned; the plan may go lower at any time."""

    name: str
    fraction: float  # of the card that may be used; 0: the card is not used
    budget_gb: float | None = None  # an upper bound beside the fraction
    video_batch: int = 1  # videos claimed together, to begin with
    video_batch_most: int = 1
    whisper_batch: int = 4  # chunks
    llm_batch: int = 2
    audio_batch: int = 1  # pieces given to a denoiser, a voice detector, a diarizer
    emergency_whisper_batch: int = 2  # after a run out of memory
    emergency_llm_batch: int = 1
    workers: int | None = None  # side jobs on the CPU; None: by `workers`

    def budget(self, card_bytes: int | None) -> int | None:
        """Bytes of the card that we may use; None without a card."""
        if card_bytes is None:
            return None
        part = int(self.fraction * max(0, card_bytes))
        return part if self.budget_gb is None else min(part, int(self.budget_gb * GB))


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="rtx3060",
            fraction=0.85,
            budget_gb=11.0,
            video_batch=2,
            video_batch_most=3,
            whisper_batch=8,
            llm_batch=4,
            audio_batch=2,
            emergency_whisper_batch=4,
            emergency_llm_batch=2,
        ),
        Profile(
            name="high_performance",
            fraction=0.85,
            video_batch=3,
            video_batch_most=4,
            whisper_batch=16,
            llm_batch=8,
            audio_batch=4,
            emergency_whisper_batch=4,
            emergency_llm_batch=2,
        ),
        Profile(
            name="balanced",
            fraction=0.85,
            video_batch=2,
            video_batch_most=2,
            whisper_batch=6,
            llm_batch=4,
            audio_batch=2,
            emergency_whisper_batch=4,
            emergency_llm_batch=2,
        ),
        Profile(name="max_stability", fraction=0.75),
        Profile(
            name="high_end",
            fraction=0.8,
            video_batch=3,
            video_batch_most=4,
            whisper_batch=16,
            llm_batch=8,
            audio_batch=4,
            emergency_whisper_batch=4,
            emergency_llm_batch=2,
            workers=8,
        ),
        Profile(
            name="mid_range",
            fraction=0.6,
            video_batch=2,
            video_batch_most=2,
            whisper_batch=6,
            llm_batch=4,
            audio_batch=2,
            workers=4,
        ),
        Profile(
            name="cpu_only",
            fraction=0.0,
            whisper_batch=1,
            llm_batch=1,
            emergency_whisper_batch=1,
            workers=2,
        ),
    )
}
LOW_END = "low_end"  # another name of cpu_only
AUTO = "auto"

# The smallest card, in bytes, for each profile that `auto` takes; a card sold as 12 GB has 12.9e9.
_BY_CARD = (
    (22 * GB, "high_performance"),
    (14 * GB, "balanced"),
    (11 * GB, "rtx3060"),
    (7 * GB, "mid_range"),
    (int(3.5 * GB), "max_stability"),
)
SMALL_RAM = 8 * GB
MANY_CORES, MUCH_RAM = 16, 32 * GB


def named(name: str) -> Profile | None:
    """The profile of that name; None if there is none (`auto` is not one)."""
    return PROFILES.get("cpu_only" if name == LOW_END else name)


def choose(card_bytes: int | None, ram_bytes: int, cores: int) -> Profile:
    """The profile that fits a machine, for `auto`. The card counts first, then RAM and cores."""
    fitting = (name for least, name in _BY_CARD if (card_bytes or 0) >= least)
    name = next(fitting, "cpu_only")
    if name != "cpu_only" and ram_bytes < SMALL_RAM:
        name = "max_stability"  # what the card could take would not fit on its way there
    elif name == "high_performance" and cores >= MANY_CORES and ram_bytes >= MUCH_RAM:
        name = "high_end"
    return PROFILES[name]


def workers(ram_bytes: int, cores: int) -> int:
    """How many side jobs a machine can bear: half of its cores, at most 2, 4 or 6 by its size."""
    if cores >= 12 and ram_bytes >= 24 * GB:
        most = 6
    elif cores >= 8 and ram_bytes >= 16 * GB:
        most = 4
    else:
        most = 2
    return max(1, min(cores // 2, most))


def videos_together(profile: Profile, seconds: float | None) -> int:
    """How many videos of this length may be claimed together at most; 1 if it is unknown."""
    if seconds is None or not 0 < seconds <= LONG_FILM:
        return 1
    return min(2, profile.video_batch_most) if seconds >= MEDIUM_FILM else profile.video_batch_most
