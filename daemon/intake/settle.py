"""When a file is whole: quiet for long enough, nobody writing, its container complete.

Pure: facts and the time come in, a verdict goes out. The quiet window adapts to the watch: it is
never shorter than the longest pause after which a file there was seen to grow.
"""

import msgspec

from daemon.intake.findings import Probe
from daemon.intake.lease import Writer
from daemon.intake.wholeness import Incomplete
from daemon.values import Sighting
from pipeline.core.text import shown

LONGEST_WINDOW = 600.0  # seconds; a pause learned is never waited for longer than this
MARGIN = 1.25  # how much longer than the longest pause seen
# Clients cache what a share says about a file: 3 s on NFS, 7.5 s and more on SMB were measured.
SHARE_WINDOW = 10.0
UNKNOWN_FACTOR = 3.0  # quiet must prove more where nobody can say who writes
NEXT_LOOK = (0.5, 10.0)  # seconds between probes of a file that is held: at least, at most
NEXT_TRY = (1.0, 60.0)  # the same for a file that can not be read
COPY_AGAIN = "copy it again and let the copy finish"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a watch is. settle_seconds = 0: no quiet window at all."""

    settle_seconds: float
    incomplete_seconds: float
    local: bool


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How slowly files arrive in a watch, as learned so far."""

    longest_pause: float = 0.0  # seconds, after which a file was seen to grow


class Tracker(msgspec.Struct, frozen=True, kw_only=True):
    """A file that waits. Times are monotonic seconds."""

    sighting: Sighting
    first_seen: float
    changed_at: float  # when its last change was seen
    probe_at: float  # when the next probe is due
    held: str  # the plain reason why it waits
    quiet_at: float = 0.0  # when a probe last found it unchanged


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Proven whole."""

    sighting: Sighting


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Not yet; `pace` is what the watch knows after this look."""

    tracker: Tracker
    pace: Pace


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes are missing and nobody brings them."""

    sighting: Sighting
    reason: str
    hint: str


class Vanished(msgspec.Struct, frozen=True, kw_only=True):
    """No longer there."""

    name: bytes


Verdict = Settled | Waiting | Broken | Vanished


def window(rules: Rules, pace: Pace) -> float:
    """Seconds that a file must be quiet where it is known that nobody writes it."""
    if rules.settle_seconds == 0:
        return 0.0
    learned = min(LONGEST_WINDOW, pace.longest_pause * MARGIN)
    return max(_base(rules), learned)


def _base(rules: Rules) -> float:
    return rules.settle_seconds if rules.local else max(rules.settle_seconds, SHARE_WINDOW)


def needed(rules: Rules, pace: Pace, writer: Writer) -> float:
    """Seconds that a file must be quiet, given what is known about its writer."""
    quiet = window(rules, pace)
    if writer is not Writer.UNKNOWN:
        return quiet
    return min(UNKNOWN_FACTOR * quiet, max(quiet, LONGEST_WINDOW))


def learn(pace: Pace, pause: float) -> Pace:
    """The pace of a watch where a file grew after this many seconds of silence."""
    return Pace(longest_pause=max(pace.longest_pause, min(pause, LONGEST_WINDOW)))


def seen(
    tracker: Tracker | None, sighting: Sighting, now: float, rules: Rules, pace: Pace
) -> tuple[Tracker, Pace]:
    """A scan or a probe saw a file that is new or has changed: its window begins anew."""
    if tracker is not None and tracker.sighting == sighting:
        return tracker, pace
    same_file = tracker is not None and tracker.sighting.ino == sighting.ino
    if tracker is not None and same_file and sighting.size > tracker.sighting.size:
        pace = _pace_after_growth(tracker, now, rules, pace)
    quiet = window(rules, pace)
    fresh = Tracker(
        sighting=sighting,
        first_seen=tracker.first_seen if tracker is not None and same_file else now,
        changed_at=now,
        probe_at=now + quiet,
        held=_still_quiet(quiet),
    )
    return fresh, pace


def _pace_after_growth(tracker: Tracker, now: float, rules: Rules, pace: Pace) -> Pace:
    # Two looks that both saw change say nothing about what lay between them. Only a probe that
    # found the file unchanged proves a pause; else a steady writer, looked at once a window, would
    # make the window longer at each look.
    pause = now - tracker.changed_at
    proven = tracker.quiet_at > tracker.changed_at
    return learn(pace, pause) if proven or pause < _base(rules) else pace


def judge(tracker: Tracker, probe: Probe, now: float, rules: Rules, pace: Pace) -> Verdict:
    """What a probe of a waiting file means."""
    # The probe may have waited in a queue: what counts is when it looked.
    looked = min(now, probe.at) if probe.at else now
    if probe.problem:
        return _wait(tracker, pace, probe.problem, now + _backoff(tracker, now, NEXT_TRY))
    if probe.sighting is None:
        return Vanished(name=tracker.sighting.name)
    if probe.sighting != tracker.sighting:
        return _changed(tracker, probe.sighting, looked, now, rules, pace)
    if looked > tracker.changed_at:
        tracker = msgspec.structs.replace(tracker, quiet_at=looked)
    again = now + _backoff(tracker, now, NEXT_LOOK)
    if probe.writer is Writer.OPEN:
        return _wait(tracker, pace, "another program is still writing it", again)
    quiet = needed(rules, pace, probe.writer)
    if looked < tracker.changed_at + quiet:
        due = max(tracker.changed_at + quiet, now + NEXT_LOOK[0])
        return _wait(tracker, pace, _still_quiet(quiet), due)
    return _by_shape(tracker, probe, looked, again, max(quiet, rules.incomplete_seconds), pace)


def _changed(
    tracker: Tracker, sighting: Sighting, looked: float, now: float, rules: Rules, pace: Pace
) -> Waiting:
    if looked < tracker.changed_at:  # a scan has overtaken this probe and knows better
        return _wait(tracker, pace, tracker.held, max(tracker.probe_at, now))
    fresh, pace = seen(tracker, sighting, looked, rules, pace)
    return _wait(fresh, pace, fresh.held, max(fresh.probe_at, now + NEXT_LOOK[0]))


def _by_shape(
    tracker: Tracker, probe: Probe, looked: float, again: float, patience: float, pace: Pace
) -> Verdict:
    """The last question, for a quiet file without a writer: is its container complete?"""
    flaw, final = _flaw(probe, tracker.sighting)
    deadline = tracker.changed_at + patience
    if flaw and looked < deadline:
        return _wait(tracker, pace, f"it {flaw}", min(deadline, again))
    if flaw and final:
        reason = f"{shown(tracker.sighting.name)} {flaw}"
        return Broken(sighting=tracker.sighting, reason=reason, hint=COPY_AGAIN)
    return Settled(sighting=tracker.sighting)


def _flaw(probe: Probe, sighting: Sighting) -> tuple[str, bool]:
    """What speaks against the file (a sentence's end, "" for nothing), and whether for sure."""
    if sighting.size == 0:
        return "is empty", True
    if probe.shape is None:
        return "changed while it was looked at", False
    if isinstance(probe.shape, Incomplete):
        return probe.shape.reason, probe.shape.final
    return "", False


def _wait(tracker: Tracker, pace: Pace, held: str, probe_at: float) -> Waiting:
    return Waiting(
        tracker=msgspec.structs.replace(tracker, held=held, probe_at=probe_at), pace=pace
    )


def _backoff(tracker: Tracker, now: float, limits: tuple[float, float]) -> float:
    """Seconds to the next look: rarer the longer a file has not changed."""
    least, most = limits
    return min(most, max(least, (now - tracker.changed_at) / 4))


def _still_quiet(quiet: float) -> str:
    return f"it must be quiet for {quiet:g} s"
