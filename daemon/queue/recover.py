"""Where an open job goes on after the daemon was gone (pure)."""

import msgspec

from daemon.values import Job, Sighting, State


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the disk found for one job."""

    staging_there: bool = False  # its staging folder with outputs
    target_ours: bool = False  # its result folder, whose report names this ledger and job
    source: Sighting | None = None  # the dropped file as it is now


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """The state to go on from, and why, in plain words. The same state means: no move."""

    to: State
    why: str


def at_start(job: Job, facts: Facts) -> Resume:
    """The first move of an open job after a restart; it loses no attempt and counts no kill.

    A file that changed or vanished meanwhile is judged where it is claimed, not here: right after
    a start a share may not be mounted yet.
    """
    match job.state:
        # 1. It never started.
        case State.QUEUED:
            return Resume(to=State.QUEUED, why=f"still waiting{_seen(job, facts)}")
        # 2. The daemon died, not the worker: the attempt stays counted, but it is no kill.
        case State.CLAIMED:
            why = f"interrupted by a restart{_seen(job, facts)}"
            return Resume(to=State.QUEUED, why=why)
        # 3. Staged: how far had publishing come?
        case State.STAGED:
            return _staged(job, facts)
        # 4. Published or failing: the step that is left may be repeated.
        case State.PUBLISHED:
            return Resume(to=State.PUBLISHED, why="published; the original is moved next")
        case State.FAILING:
            return Resume(to=State.FAILING, why="failed; the original is moved next")
        # 5. Ended: nothing is left to do.
        case _:
            return Resume(to=job.state, why="it has ended")


def _staged(job: Job, facts: Facts) -> Resume:
    # a. The rename happened, only its record was lost. This rules before b: what is left in
    #    staging must not be published a second time.
    if facts.target_ours:
        return Resume(to=State.PUBLISHED, why="its result is in the outbox already")
    # b. The outputs wait in staging.
    if facts.staging_there:
        return Resume(to=State.STAGED, why="its outputs are staged; publishing goes on")
    # c. Somebody emptied the outbox.
    return Resume(to=State.QUEUED, why=f"its outputs are gone; it runs again{_seen(job, facts)}")


def _seen(job: Job, facts: Facts) -> str:
    if facts.source is None:
        return " (its file is not to be seen at the moment)"
    return "" if facts.source.mark == job.mark else " (its file has changed meanwhile)"
