"""What the control socket may ask of the loop: pause, resume, cancel, retry, why."""

import os
from typing import TYPE_CHECKING, Any

import msgspec

from daemon.desk import Room
from daemon.intake.look import look_at
from daemon.publish.notes import drop_note
from daemon.publish.originals import Moved, find_ticket, move_original, move_ticket
from daemon.tell.control import Reply, Request, path_of
from daemon.values import Job, Sighting, State
from pipeline.core.errors import PenstockError
from pipeline.core.recipes import recipe_named
from pipeline.core.text import human_seconds, shown

if TYPE_CHECKING:
    from daemon.service import Service


def handle(service: "Service", request: Request) -> None:
    """Answer a command, now or when a share has been asked."""
    try:
        match request.command.name:
            case "pause":
                request.answer(_pause(service, paused=True))
            case "resume":
                request.answer(_pause(service, paused=False))
            case "cancel":
                request.answer(_cancel(service, _number(request)))
            case "retry":
                _retry(service, request)
            case "why":
                _why(service, request)
            case name:
                request.answer(Reply(ok=False, text=f"the daemon knows no command {shown(name)}"))
    except PenstockError as error:
        request.answer(Reply(ok=False, text=str(error)))


def _pause(service: "Service", *, paused: bool) -> Reply:
    desk = service.desk
    desk.ledger.remember("paused", "yes" if paused else "no")
    if desk.paused != paused:
        desk.paused = paused
        desk.tell("paused" if paused else "resumed")
    running = len(desk.flights)
    if paused:
        rest = f"; {running} running jobs go on to their end" if running else ""
        return Reply(ok=True, text=f"paused: no further job is started{rest}")
    return Reply(ok=True, text="resumed")


def _number(request: Request) -> int:
    try:
        return msgspec.convert(request.command.args.get("job"), int, strict=False)
    except msgspec.ValidationError:
        raise PenstockError("the command needs a job's number") from None


def _job(service: "Service", number: int) -> Job:
    job = service.desk.jobs.get(number) or service.desk.ledger.job(number)
    if job is None:
        raise PenstockError(f"there is no job {number:06d}", "see `penstock jobs`")
    return job


def _cancel(service: "Service", number: int) -> Reply:
    job = _job(service, number)
    if service.walk.cancel(job):
        return Reply(ok=True, text=f"{job.label} cancelled; the file stays in {shown(job.source)}")
    return Reply(ok=False, text=f"{job.label} is {job.state.value} and can not be cancelled")


def _retry(service: "Service", request: Request) -> None:
    job = _job(service, _number(request))
    room = service.desk.rooms.get(job.watch)
    if job.state not in (State.FAILED, State.CANCELLED):
        raise PenstockError(
            f"{job.label} is {job.state.value}; only failed or cancelled jobs can be retried"
        )
    if room is None:
        raise PenstockError(f"{job.label} belongs to a watch that is no longer in the config")

    def back(result: Any, error: Exception | None) -> None:
        if error is not None or result:
            request.answer(Reply(ok=False, text=str(error or result)))
            return
        service.desk.ledger.forget_stay(job.watch, job.name)
        service.arrivals.stays(job.watch, job.name, None)
        room.watcher.forget([job.name])
        room.watcher.look()
        service.desk.ledger.note(job.id, "retry asked for", service.desk.wall())
        request.answer(Reply(ok=True, text=f"{shown(job.name)} is taken up again"))

    service.desk.hands.do(job.watch, lambda: _bring_back(job), back)


def _bring_back(job: Job) -> str:
    """Move a failed original back into its watch; answers what is in the way, if anything."""
    if not job.original_to:
        return "" if os.path.lexists(job.source) else f"{shown(job.source)} is no longer there"
    sighting = msgspec.structs.replace(job.sighting, ino=0)  # a move may have copied it
    ticket = find_ticket(job.original_to)
    try:
        outcome = move_original(job.original_to, sighting, job.source)
    except FileExistsError:
        return f"another file lies at {shown(job.source)}; move it away first"
    if not isinstance(outcome, Moved):
        return f"{shown(job.original_to)} is no longer the file that failed"
    if ticket:
        move_ticket(ticket, job.source)
    drop_note(job.original_to)
    return ""


def _why(service: "Service", request: Request) -> None:
    path = os.path.normpath(path_of(request.command, "path"))
    room = _room_of(service, path)
    if room is None:
        request.answer(Reply(ok=True, text=f"{shown(path)} lies in no watched folder"))
        return
    watch, name = room.settings, os.path.relpath(path, room.settings.path)
    known = _known(service, room, name)
    if known:
        request.answer(Reply(ok=True, text=known))
        return
    takes = recipe_named(watch.recipe).takes

    def back(result: Any, error: Exception | None) -> None:
        request.answer(Reply(ok=True, text=_looked(service, room, name, result, error)))

    service.desk.hands.do(
        watch.name, lambda: look_at(watch.path, name, local=room.local, takes=takes), back
    )


def _room_of(service: "Service", path: bytes) -> Room | None:
    for room in service.desk.rooms.values():
        if path.startswith(room.settings.path.rstrip(b"/") + b"/"):
            return room
    return None


def _known(service: "Service", room: Room, name: bytes) -> str:
    """What the loop itself knows of the file; empty if nothing."""
    desk, key = service.desk, (room.settings.name, name)
    if not room.online:
        return f"its watch {room.settings.name} is offline: {room.reason}"
    job = desk.open_job(*key)
    if job is not None:
        return _about_job(service, job)
    if key in service.arrivals.waiting:
        held = service.bulletin.held or f"{len(desk.jobs)} jobs are admitted already"
        return f"settled; it waits for a place in the queue ({held})"
    tracker = service.arrivals.trackers.get(key)
    if tracker is not None:
        wait = max(0.0, tracker.probe_at - desk.clock())
        held = tracker.held or "it must be quiet first"
        return f"not settled yet: {held}; next look in {human_seconds(wait)}"
    return ""


def _about_job(service: "Service", job: Job) -> str:
    flight = service.desk.flights.get(job.id)
    problem = service.desk.problems.get(f"job {job.label}")
    if problem:
        return problem
    if flight is not None:
        share = "" if flight.overall is None else f", {flight.overall:.0%} done"
        return f"job {job.label} is running: {flight.stage or 'starting'}{share}"
    wait = service.walk.not_before.get(job.id, 0.0) - service.desk.clock()
    if job.state is State.QUEUED and wait > 0:
        return f"job {job.label} is tried again in {human_seconds(wait)}, because {job.reason}"
    ahead = sum(
        1
        for other in service.desk.jobs.values()
        if other.state is State.QUEUED and (-other.priority, other.id) < (-job.priority, job.id)
    )
    if job.state is State.QUEUED:
        paused = "; the daemon is paused" if service.desk.paused else ""
        return f"job {job.label} is queued with {ahead} before it{paused}"
    return f"job {job.label} is {job.state.value}"


def _looked(
    service: "Service", room: Room, name: bytes, result: Any, error: Exception | None
) -> str:
    if error is not None:
        return f"it can not be looked at: {error}"
    if not isinstance(result, Sighting):
        return str(result.reason)
    if service.arrivals.stayed(room.settings.name, name):
        return "it was handled already and left in place; change it or use `penstock jobs retry`"
    return "nothing holds it; the next scan will take it up"
