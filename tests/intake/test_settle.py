"""When a file counts as whole: the decider, over simulated time."""

from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.intake.findings import Probe
from daemon.intake.lease import Writer
from daemon.intake.settle import (
    LONGEST_WINDOW,
    MARGIN,
    SHARE_WINDOW,
    UNKNOWN_FACTOR,
    Broken,
    Pace,
    Rules,
    Settled,
    Tracker,
    Vanished,
    Verdict,
    Waiting,
    judge,
    learn,
    needed,
    seen,
    window,
)
from daemon.intake.wholeness import Incomplete, Opaque, Whole
from daemon.values import Sighting

RULES = Rules(settle_seconds=5.0, incomplete_seconds=120.0, local=True)
SHARE = msgspec.structs.replace(RULES, local=False)
AT_ONCE = Rules(settle_seconds=0.0, incomplete_seconds=0.0, local=True)
NEW = Pace()
WHOLE = Whole("wav")
SHORT = Incomplete("wav", "is 9 B short of what its header promises")
DOUBT = Incomplete("wav", "ends in zeros", final=False)


def file(size: int = 100, mtime: float = 1.0, ino: int = 7) -> Sighting:
    return Sighting(name=b"talk.wav", size=size, mtime_ns=int(mtime * 1e9), ino=ino)


def probe(
    sighting: Sighting | None = None,
    *,
    writer: Writer = Writer.NONE,
    shape: Whole | Incomplete | Opaque | None = WHOLE,
    at: float = 0.0,
) -> Probe:
    return Probe(sighting=sighting or file(), writer=writer, shape=shape, at=at)


def track(now: float = 100.0, rules: Rules = RULES, sighting: Sighting | None = None) -> Tracker:
    return seen(None, sighting or file(), now, rules, NEW)[0]


def waits(verdict: Verdict) -> Tracker:
    assert isinstance(verdict, Waiting)
    return verdict.tracker


def test_a_quiet_whole_file_settles_at_the_end_of_its_window() -> None:
    """The probe that was asked for at first sight settles a file that did not change."""
    tracker = track(now=100.0)
    assert tracker.probe_at == 105.0
    verdict = judge(tracker, probe(), tracker.probe_at, RULES, NEW)
    assert verdict == Settled(sighting=file())


def test_too_early_a_probe_waits_for_the_rest_of_the_window() -> None:
    """A probe before the window has passed asks again at its end, not before."""
    held = waits(judge(track(now=100.0), probe(), 103.0, RULES, NEW))
    assert held.probe_at == 105.0
    assert held.held == "it must be quiet for 5 s"


def test_the_time_of_the_look_counts_and_not_that_of_the_verdict() -> None:
    """A probe that lay in a queue for a minute proves no minute of quiet."""
    late = judge(track(now=100.0), probe(at=103.0), 163.0, RULES, NEW)
    assert waits(late).changed_at == 100.0


def test_a_changed_file_begins_its_window_anew() -> None:
    """A probe that finds another size restarts the window with what it saw."""
    held = waits(judge(track(now=100.0), probe(file(size=200)), 105.0, RULES, NEW))
    assert (held.sighting.size, held.changed_at, held.probe_at) == (200, 105.0, 110.0)
    assert held.first_seen == 100.0


def test_a_probe_overtaken_by_a_scan_changes_nothing() -> None:
    """What an older look saw does not replace what a newer one saw."""
    tracker, _pace = seen(track(now=100.0), file(size=300), 104.0, RULES, NEW)
    held = waits(judge(tracker, probe(file(size=200), at=103.0), 104.5, RULES, NEW))
    assert held == tracker


def test_an_open_writer_holds_a_file_for_ever() -> None:
    """However long it is quiet, a file that a program has open for writing waits."""
    tracker, now = track(now=0.0), 0.0
    for _look in range(200):
        now = tracker.probe_at
        tracker = waits(judge(tracker, probe(writer=Writer.OPEN), now, RULES, NEW))
        assert tracker.held == "another program is still writing it"
        assert now < tracker.probe_at <= now + 10.0
    assert now > 600.0


def test_an_unknown_writer_asks_for_more_quiet() -> None:
    """Where nobody can say who writes, the window is three times as long."""
    tracker = track(now=100.0)
    unknown = probe(writer=Writer.UNKNOWN)
    held = waits(judge(tracker, unknown, 105.0, RULES, NEW))
    assert held.probe_at == 115.0
    assert isinstance(judge(held, unknown, 115.0, RULES, NEW), Settled)


def test_shares_wait_longer_than_local_disks() -> None:
    """The base window of a share outlasts its attribute caches."""
    assert window(RULES, NEW) == 5.0
    assert window(SHARE, NEW) == SHARE_WINDOW
    assert window(msgspec.structs.replace(SHARE, settle_seconds=40.0), NEW) == 40.0


def test_a_missing_tail_is_waited_for_and_then_broken() -> None:
    """A container that stays short for incomplete_seconds ends as Broken, with name and hint."""
    tracker = track(now=100.0)
    reasons = set()
    while not isinstance(
        verdict := judge(tracker, probe(shape=SHORT), tracker.probe_at, RULES, NEW), Broken
    ):
        tracker = waits(verdict)
        reasons.add(tracker.held)
        assert tracker.probe_at <= 220.0
    assert tracker.probe_at == 220.0
    assert reasons == {"it is 9 B short of what its header promises"}
    assert verdict.reason == "talk.wav is 9 B short of what its header promises"
    assert "copy it again" in verdict.hint


def test_a_doubt_is_waited_out_and_then_taken() -> None:
    """A whole file may end in silence: after incomplete_seconds it is taken."""
    tracker = track(now=100.0)
    assert isinstance(judge(tracker, probe(shape=DOUBT), 219.0, RULES, NEW), Waiting)
    assert isinstance(judge(tracker, probe(shape=DOUBT), 220.0, RULES, NEW), Settled)


def test_an_empty_file_waits_and_is_then_broken() -> None:
    """A name without bytes is what some writers make first; after long enough it is a mistake."""
    empty = file(size=0)
    tracker = track(now=100.0, sighting=empty)
    asked = probe(empty, shape=Opaque())
    assert waits(judge(tracker, asked, 110.0, RULES, NEW)).held == "it is empty"
    assert isinstance(judge(tracker, asked, 220.0, RULES, NEW), Broken)


def test_a_file_that_can_not_be_read_is_tried_again_ever_more_rarely() -> None:
    """Permission denied never fails a file: it is looked at up to once a minute, for ever."""
    denied = Probe(sighting=file(), problem="permission denied: give the right")
    tracker, gaps = track(now=0.0), []
    for _look in range(60):
        now = tracker.probe_at
        tracker = waits(judge(tracker, denied, now, RULES, NEW))
        gaps.append(tracker.probe_at - now)
        assert tracker.held.startswith("permission denied")
    assert gaps == sorted(gaps)
    assert gaps[0] < 2.0
    assert gaps[-1] == 60.0


def test_a_file_that_is_gone_vanishes() -> None:
    """A probe that finds nothing ends the wait."""
    assert judge(track(), Probe(sighting=None), 105.0, RULES, NEW) == Vanished(name=b"talk.wav")


def test_one_file_now_needs_no_window_but_still_proof() -> None:
    """With settle_seconds 0 a whole file settles at once; a writer or a cut is still seen."""
    tracker = track(now=100.0, rules=AT_ONCE)
    assert tracker.probe_at == 100.0
    patient = msgspec.structs.replace(AT_ONCE, incomplete_seconds=9.0)
    open_file = probe(writer=Writer.OPEN)
    assert isinstance(judge(tracker, probe(), 100.0, AT_ONCE, NEW), Settled)
    unknown = probe(writer=Writer.UNKNOWN, shape=Opaque())
    assert isinstance(judge(tracker, unknown, 100.0, AT_ONCE, NEW), Settled)
    assert isinstance(judge(tracker, open_file, 100.0, AT_ONCE, NEW), Waiting)
    assert isinstance(judge(tracker, probe(shape=SHORT), 100.0, AT_ONCE, NEW), Broken)
    assert isinstance(judge(tracker, probe(shape=DOUBT), 100.0, AT_ONCE, NEW), Settled)
    assert isinstance(judge(tracker, probe(shape=SHORT), 100.0, patient, NEW), Waiting)


def test_one_growing_file_is_not_probed_in_a_circle() -> None:
    """Without a window, probes of a changing file still keep their distance."""
    held = waits(judge(track(now=9.0, rules=AT_ONCE), probe(file(size=2)), 9.0, AT_ONCE, NEW))
    assert held.probe_at == 9.5


def test_a_proven_pause_makes_the_window_longer() -> None:
    """A file found quiet that then grows teaches its watch the pause, with a margin."""
    tracker = waits(judge(track(now=100.0), probe(writer=Writer.OPEN), 105.0, RULES, NEW))
    _tracker, pace = seen(tracker, file(size=200), 112.0, RULES, NEW)
    assert pace.longest_pause == 12.0
    assert window(RULES, pace) == 12.0 * MARGIN
    assert needed(RULES, pace, Writer.UNKNOWN) == 12.0 * MARGIN * UNKNOWN_FACTOR


def test_growth_that_a_probe_sees_teaches_too() -> None:
    """The pace that comes back with a Waiting verdict knows the pause."""
    tracker = waits(judge(track(now=100.0), probe(writer=Writer.OPEN), 105.0, RULES, NEW))
    verdict = judge(tracker, probe(file(size=200)), 112.0, RULES, NEW)
    assert isinstance(verdict, Waiting)
    assert verdict.pace.longest_pause == 12.0


def test_a_replaced_file_teaches_nothing() -> None:
    """Another inode at the same name is another file, first seen now."""
    tracker = waits(judge(track(now=100.0), probe(writer=Writer.OPEN), 105.0, RULES, NEW))
    fresh, pace = seen(tracker, file(size=200, ino=8), 190.0, RULES, NEW)
    assert pace == NEW
    assert fresh.first_seen == fresh.changed_at == 190.0


def test_an_unchanged_sighting_changes_nothing() -> None:
    """Seeing the same again does not restart the window."""
    tracker = track(now=100.0)
    assert seen(tracker, file(), 104.0, RULES, NEW) == (tracker, NEW)


@given(looks=st.integers(2, 200), rules=st.sampled_from([RULES, SHARE]))
def test_a_steady_writer_does_not_stretch_the_window(looks: int, rules: Rules) -> None:
    """Two looks that both see growth prove no pause, however far apart they are."""
    tracker, pace = track(now=0.0, rules=rules), NEW
    for size in range(1, looks):
        verdict = judge(tracker, probe(file(size=1000 + size)), tracker.probe_at, rules, pace)
        assert isinstance(verdict, Waiting)
        tracker, pace = verdict.tracker, verdict.pace
    assert window(rules, pace) <= window(rules, NEW) * MARGIN


@given(pauses=st.lists(st.floats(0, 1e6)), settle=st.floats(0.1, 3600), local=st.booleans())
def test_the_window_is_bounded(pauses: list[float], settle: float, local: bool) -> None:
    """No pause learned makes the window shorter than configured or longer than its cap."""
    rules, pace = Rules(settle_seconds=settle, incomplete_seconds=1.0, local=local), NEW
    for pause in pauses:
        pace = learn(pace, pause)
    base = window(rules, NEW)
    assert settle <= base <= window(rules, pace) <= max(base, LONGEST_WINDOW)
    assert window(rules, pace) <= needed(rules, pace, Writer.UNKNOWN)
    assert needed(rules, pace, Writer.NONE) == window(rules, pace)


WRITERS = st.sampled_from(list(Writer))
SHAPES = st.sampled_from([WHOLE, SHORT, DOUBT, Opaque(), None])
RULE_SETS = st.builds(
    Rules,
    settle_seconds=st.floats(0, 30),
    incomplete_seconds=st.floats(0, 200),
    local=st.booleans(),
)


@given(
    rules=RULE_SETS,
    steps=st.lists(st.tuples(st.floats(0.01, 900), WRITERS, SHAPES), min_size=1, max_size=30),
)
def test_a_file_that_grew_since_the_last_look_is_never_settled(
    rules: Rules, steps: list[tuple[float, Writer, Whole | Incomplete | Opaque | None]]
) -> None:
    """Growth between two looks always means waiting, whatever else the look found."""
    now, pace, size = 0.0, NEW, 100
    tracker = track(now=now, rules=rules)
    for gap, writer, shape in steps:
        now, size = now + gap, size + 1
        verdict = judge(tracker, probe(file(size), writer=writer, shape=shape), now, rules, pace)
        assert isinstance(verdict, Waiting)
        assert verdict.tracker.probe_at > now
        tracker, pace = verdict.tracker, verdict.pace


@given(rules=RULE_SETS, start=st.floats(0, 1e6), pause=st.floats(0, 700))
def test_a_quiet_whole_file_without_a_writer_settles_at_its_first_probe(
    rules: Rules, start: float, pause: float
) -> None:
    """Nothing is waited for longer than the window and one probe."""
    pace = learn(NEW, pause)
    tracker, pace = seen(None, file(), start, rules, pace)
    assert tracker.probe_at == start + window(rules, pace)
    assert isinstance(judge(tracker, probe(), tracker.probe_at, rules, pace), Settled)


MOVES = st.tuples(
    st.sampled_from(["scan", "probe", "late probe"]),
    st.floats(0.01, 60),
    st.booleans(),
    WRITERS,
    SHAPES,
)


@given(rules=RULE_SETS, moves=st.lists(MOVES, max_size=40))
def test_nothing_settles_within_its_window_after_a_change(
    rules: Rules, moves: list[tuple[str, float, bool, Writer, Whole | Incomplete | Opaque | None]]
) -> None:
    """Whatever scans and probes see in whatever order, a settled file was quiet for its window."""
    now, size, changed = 0.0, 100, 0.0
    tracker, pace = seen(None, file(size), now, rules, NEW)
    for kind, gap, grows, writer, shape in moves:
        before, now = now, now + gap
        asked = probe(file(size), writer=writer, shape=shape, at=before + 1e-9)
        if grows:
            size, changed = size + 1, now
        if kind == "scan":
            tracker, pace = seen(tracker, file(size), now, rules, pace)
            continue
        if kind == "probe":
            asked = probe(file(size), writer=writer, shape=shape, at=now)
        verdict = judge(tracker, asked, now, rules, pace)
        if isinstance(verdict, Settled | Broken):
            assert writer is not Writer.OPEN
            # A change after the look can not be known; one before it must have restarted the wait.
            assert asked.at < changed or asked.at - changed >= needed(rules, pace, writer) - 1e-6
            return
        assert isinstance(verdict, Waiting)
        tracker, pace = verdict.tracker, verdict.pace


# The six writers that every other rule was fooled by, each as (seconds, bytes so far, open?).
TOTAL = 1000
Step = tuple[float, int, bool]


def steady(seconds: float = 10.0) -> list[Step]:
    count = int(seconds * 2)
    steps = [(i * 0.5, 10 + i * (TOTAL - 10) // count, True) for i in range(count)]
    return [*steps, (seconds, TOTAL, True), (seconds, TOTAL, False)]


def stalled() -> list[Step]:
    first = [(i * 0.5, 10 + i * 100, True) for i in range(5)]
    return [
        *first,
        *[(14.0 + i * 0.5, 510 + i * 100, True) for i in range(5)],
        (16.5, TOTAL, False),
    ]


def reopened(every: float) -> list[Step]:
    steps: list[Step] = []
    for i in range(5):
        steps += [(i * every, 200 * i + 100, True), (i * every + 0.2, 200 * (i + 1), False)]
    return steps


SCENARIOS: dict[str, tuple[list[Step], bool]] = {
    "steady": (steady(), False),
    "12 s stall": (stalled(), False),
    "preallocated": (steady(), True),
    "preallocated, 12 s stall": (stalled(), True),
    "reopened every 3 s": (reopened(3.0), False),
    "reopened every 8 s": (reopened(8.0), False),
}


def state(steps: list[Step], now: float, ahead: bool) -> tuple[Sighting, int, bool]:
    """What a look at this time sees: the sighting, the bytes written, and whether it is open."""
    at, written, is_open = next(step for step in reversed(steps) if step[0] <= now)
    size = TOTAL if ahead else written
    return file(size=size, mtime=at + 1), written, is_open


def settled_at(
    steps: list[Step],
    ahead: bool,
    rules: Rules,
    *,
    lease: bool,
    container: bool,
    scans: list[float],
) -> float:
    """Play scans and due probes against a writer; returns when the file settled."""
    tracker: Tracker | None = None
    pace, now = NEW, 0.0
    looks = iter([*scans, 1e9])
    scan = next(looks)
    last: Sighting | None = None
    while now < 1000:
        now = min(scan, tracker.probe_at if tracker else scan)
        sighting, written, is_open = state(steps, now, ahead)
        if now == scan:
            if sighting != last:
                tracker, pace = seen(tracker, sighting, now, rules, pace)
            last, scan = sighting, next(looks)
            continue
        assert tracker is not None
        writer = (Writer.OPEN if is_open else Writer.NONE) if lease else Writer.UNKNOWN
        missing = DOUBT if ahead else SHORT
        shape = (WHOLE if written == TOTAL else missing) if container else Opaque()
        found = Probe(sighting=sighting, writer=writer, shape=shape, at=now)
        verdict = judge(tracker, found, now, rules, pace)
        if isinstance(verdict, Settled):
            return now
        assert isinstance(verdict, Waiting)
        tracker, pace = verdict.tracker, verdict.pace
    raise AssertionError("never settled")


def hints(steps: list[Step]) -> list[float]:
    """When events make us scan: at creation and at each close; else once a minute."""
    closed = [now[0] for before, now in pairwise(steps) if before[2] and not now[2]]
    return sorted({0.0, *closed, *(60.0 * i for i in range(1, 10))})


def timer(_steps: list[Step]) -> list[float]:
    """Where nothing wakes us: every five seconds, out of step with the writer."""
    return [0.1 + 5.0 * i for i in range(100)]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("when", [hints, timer])
@pytest.mark.parametrize(
    ("rules", "lease", "container"),
    [(RULES, True, True), (RULES, False, True), (SHARE, False, True), (SHARE, False, False)],
    ids=["lease", "foreign owner", "share", "share, no container"],
)
def test_no_writer_fools_us(
    scenario: str,
    when: Callable[[list[Step]], list[float]],
    rules: Rules,
    lease: bool,
    container: bool,
) -> None:
    """None of the six writers is taken early, and each is taken soon after its end."""
    steps, ahead = SCENARIOS[scenario]
    end = steps[-1][0]
    at = settled_at(steps, ahead, rules, lease=lease, container=container, scans=when(steps))
    assert end <= at <= end + 75.0


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if "8 s" not in name])
def test_the_lease_alone_holds_five_of_six(scenario: str) -> None:
    """Without a container to ask, the lease still holds all but the writer that reopens late."""
    steps, ahead = SCENARIOS[scenario]
    at = settled_at(steps, ahead, RULES, lease=True, container=False, scans=hints(steps))
    assert steps[-1][0] <= at <= steps[-1][0] + 20.0
