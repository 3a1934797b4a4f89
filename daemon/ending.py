"""The steps of a job's end as single calls, each repeatable after a crash at any point in it.

They run on a watch's hand, touch only the folders of that watch, and know no ledger: what they
answer is recorded by the walk before the next step begins.
"""

import os
import shutil
from collections.abc import Collection

import msgspec

from daemon.publish.identity import same_file
from daemon.publish.notes import drop_note, failed_note, put_note
from daemon.publish.originals import (
    Changed,
    Missing,
    Moved,
    choose_place,
    delete_original,
    find_ticket,
    move_original,
    move_ticket,
)
from daemon.publish.receipts import drop
from daemon.publish.steps import (
    NotStaged,
    choose_target,
    is_ours,
    publish,
    result_name,
    staging_of,
    verify_outputs,
    write_report,
)
from daemon.queue.recover import Facts
from daemon.settings import WatchSettings
from daemon.values import Job, Sighting
from pipeline.core.contract import Finished
from pipeline.core.text import shown
from pipeline.core.version import __version__

REPORT_SCHEMA = 1


class Vanished(msgspec.Struct, frozen=True, kw_only=True):
    """The file is gone, or is no longer the one that was processed."""

    missing: bool
    reason: str


class Spoiled(msgspec.Struct, frozen=True, kw_only=True):
    """The outputs are not what the worker said; the attempt does not count as finished."""

    reason: str


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """The reserved name was taken meanwhile; this one is free."""

    target: bytes


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the original."""

    event: str
    moved: bool


def facts_of(job: Job, watch: WatchSettings, uid: str) -> Facts:
    """What the disks say about a job that was open when a daemon died."""
    staging = staging_of(watch.outbox, job.label, uid)
    ours = bool(job.target) and is_ours(watch.outbox, job.target, uid, job.id)
    return Facts(staging_there=os.path.isdir(staging), target_ours=ours, source=sighting_of(job))


def sighting_of(job: Job) -> Sighting | None:
    """The job's own sighting if its file is still there unchanged."""
    return job.sighting if same_file(job.source, job.sighting) else None


def stage(
    job: Job,
    watch: WatchSettings,
    answer: Finished,
    *,
    uid: str,
    wall: float,
    taken: Collection[bytes],
) -> bytes | Vanished | Spoiled:
    """Prove the outputs, write the report beside them, choose the result folder's name."""
    if not same_file(job.source, job.sighting):
        missing = not os.path.lexists(job.source)
        reason = "the file was deleted" if missing else "the file changed"
        return Vanished(missing=missing, reason=f"{reason} while it was processed")
    staging = staging_of(watch.outbox, job.label, uid)
    try:
        verify_outputs(staging, answer.outputs)
    except NotStaged as error:
        return Spoiled(reason=str(error))
    write_report(
        staging, os.path.basename(result_name(job.name)), report_of(job, answer, uid, wall)
    )
    return choose_target(watch.outbox, result_name(job.name), taken)


def report_of(job: Job, answer: Finished, uid: str, wall: float) -> bytes:
    """The result's own record: what it was made of, by what, in which time."""
    facts = {
        "schema": REPORT_SCHEMA,
        "penstock": __version__,
        "ledger": uid,
        "job": job.id,
        "file": shown(job.name),
        "bytes": job.sighting.size,
        "recipe": job.recipe,
        "options": job.options,
        "attempts": job.attempt,
        "admitted_at": job.admitted_at,
        "finished_at": wall,
        "outputs": [{"name": shown(out.name), "bytes": out.size} for out in answer.outputs],
        "stages": answer.reports,
    }
    return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"


def publish_result(
    job: Job, watch: WatchSettings, *, uid: str, taken: Collection[bytes]
) -> bytes | Elsewhere:
    """Rename the staging folder into the outbox; answers where the original will go (or b"")."""
    if not is_ours(watch.outbox, job.target, uid, job.id):
        try:
            publish(staging_of(watch.outbox, job.label, uid), watch.outbox, job.target)
        except FileExistsError:
            wanted = result_name(job.name)
            return Elsewhere(target=choose_target(watch.outbox, wanted, taken))
    return choose_place(watch.archive, job.name) if watch.after == "archive" else b""


def part_with_original(job: Job, watch: WatchSettings) -> Ended | Elsewhere:
    """Move, keep or delete the original, whose result is on disk; then its receipt goes."""
    outcome: Moved | Changed | Missing | None = None
    event = "original kept"
    ticket = find_ticket(job.source)
    if watch.after == "archive":
        try:
            outcome = move_original(job.source, job.sighting, job.original_to)
        except FileExistsError:
            return Elsewhere(target=choose_place(watch.archive, job.name))
        event = _event(outcome, f"original in {shown(job.original_to)}")
        if ticket and isinstance(outcome, Moved):
            move_ticket(ticket, job.original_to)
    elif watch.after == "delete":
        outcome = delete_original(job.source, job.sighting)
        event = _event(outcome, "original deleted")
    if watch.receipts:
        drop(job.source, root=job.root)
    if watch.failed:
        drop_note(os.path.join(watch.failed, job.name), root=watch.failed)
    return Ended(event=event, moved=isinstance(outcome, Moved))


def place_in_failed(job: Job, watch: WatchSettings) -> bytes:
    """A free name for the original below the failed folder."""
    return choose_place(watch.failed, job.name)


def fail(job: Job, watch: WatchSettings, *, uid: str, wall: float) -> Ended | Elsewhere:
    """Bring the original to the failed folder with a note in plain words; drop what was staged."""
    shutil.rmtree(staging_of(watch.outbox, job.label, uid), ignore_errors=True)
    if watch.receipts:
        drop(job.source, root=job.root)
    if not watch.failed:
        return Ended(event="original kept", moved=False)
    ticket = find_ticket(job.source)
    try:
        outcome = move_original(job.source, job.sighting, job.original_to)
    except FileExistsError:
        return Elsewhere(target=choose_place(watch.failed, job.name))
    if ticket and isinstance(outcome, Moved):
        move_ticket(ticket, job.original_to)
    put_note(job.original_to, failed_note(job, wall), root=watch.failed)
    event = _event(outcome, f"original in {shown(job.original_to)}")
    return Ended(event=event, moved=isinstance(outcome, Moved))


def _event(outcome: Moved | Changed | Missing, moved: str) -> str:
    match outcome:
        case Moved():
            return moved
        case Changed():
            return "the name now holds another file, which was left alone"
        case Missing():
            return "the original was no longer there"
