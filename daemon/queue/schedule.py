"""Who comes next: higher priority, then the watch whose turn was longest ago, then arrival (pure).

`served` maps a watch to the number of its last turn; numbers grow, and a watch that is missing has
never had one. The caller counts a turn for each job that it takes up or starts.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

import msgspec

from daemon.values import Job


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A settled file that waits to be admitted."""

    watch: str
    name: bytes
    priority: int
    settled_at: int  # number of arrival: smaller came first


def next_admissions(
    candidates: Sequence[Candidate], places: int, served: Mapping[str, int]
) -> list[Candidate]:
    """The files that get the free places of the queue, in order."""
    by_priority: dict[int, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for candidate in candidates:
        by_priority[candidate.priority][candidate.watch].append(candidate)
    turns = dict(served)
    chosen: list[Candidate] = []
    for priority in sorted(by_priority, reverse=True):
        left = places - len(chosen)
        if left <= 0:
            break
        chosen += _in_turns(by_priority[priority], left, turns)
    return chosen


def _in_turns(
    waiting: Mapping[str, list[Candidate]], places: int, turns: dict[str, int]
) -> list[Candidate]:
    """The first of each watch in turn; counts each turn in `turns`."""
    # No watch can get more than all places, so no more than its first few are put in order.
    lines: dict[str, Iterator[Candidate]] = {
        watch: iter(heapq.nsmallest(places, line, key=_arrival)) for watch, line in waiting.items()
    }
    heap = [
        (_turn(turns, watch), _arrival(head), watch, head)
        for watch, line in lines.items()
        if (head := next(line, None))
    ]
    heapq.heapify(heap)
    last = max(turns.values(), default=0)
    chosen: list[Candidate] = []
    while heap and len(chosen) < places:
        _, _, watch, head = heapq.heappop(heap)
        chosen.append(head)
        last += 1
        turns[watch] = last
        if following := next(lines[watch], None):
            heapq.heappush(heap, (_turn(turns, watch), _arrival(following), watch, following))
    return chosen


def next_claim(
    queued: Sequence[Job],
    running: Sequence[Job],
    *,
    lanes: int,
    served: Mapping[str, int],
    now: float,
    not_before: Mapping[int, float],
    suspects: Container[int],
) -> Job | None:
    """The queued job to start now, or None. Times are in one clock, seconds.

    `suspects` are jobs that were in flight when the worker died: one of them runs alone. When it
    is a suspect's turn, the lanes drain for it, or under steady load it would never run.
    """
    # 1. Every lane is taken.
    if len(running) >= lanes:
        return None
    # 2. A suspect runs: it runs alone.
    if any(job.id in suspects for job in running):
        return None
    # 3. Nobody's waiting time is over.
    ready = [job for job in queued if not_before.get(job.id, now) <= now]
    if not ready:
        return None
    # 4. The one whose turn it is, unless it must run alone and something still runs.
    first = min(ready, key=_claim_order(served))
    return None if first.id in suspects and running else first


def _claim_order(served: Mapping[str, int]) -> Callable[[Job], tuple[int, tuple[bool, int], int]]:
    return lambda job: (-job.priority, _turn(served, job.watch), job.id)


def _turn(turns: Mapping[str, int], watch: str) -> tuple[bool, int]:
    return watch in turns, turns.get(watch, 0)


def _arrival(candidate: Candidate) -> tuple[int, bytes]:
    return candidate.settled_at, candidate.name
