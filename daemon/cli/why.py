"""`penstock why PATH`: which rule holds a file, and what became of its earlier visits."""

import argparse
import os
import signal
import time

from daemon.cli.common import ledger_path, moment, place_in, settings_of
from daemon.intake.lease import Writer
from daemon.intake.look import Skip, look_at, probe
from daemon.intake.mounts import find_place
from daemon.intake.wholeness import Incomplete
from daemon.lock import holder
from daemon.queue.reader import Reader
from daemon.settings import Settings, WatchSettings
from daemon.tell.control import Command, send
from daemon.values import ENDED, OPEN, Job, Sighting, State
from pipeline.core.errors import LedgerError, Transient
from pipeline.core.recipes import recipe_named
from pipeline.core.text import shown

VISITS = 5
RETRIED = (State.FAILED, State.CANCELLED)  # what `penstock jobs retry` takes
STAYED = (State.DONE, *RETRIED)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `why`."""
    parser = commands.add_parser(
        "why",
        help="which rule holds a file, and until when",
        description="Asks the daemon what holds a file; without one, says what it would do.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file in a watched folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if there is an answer, 1 if the daemon can not give one."""
    settings = settings_of(args)
    return max(_answer(settings, os.path.abspath(os.fsencode(path))) for path in args.paths)


def _answer(settings: Settings, path: bytes) -> int:
    place = place_in(settings, path)
    if place is None:
        print(_elsewhere(settings, path))
        return 0
    watch, name = place
    if holder(settings.daemon.state_dir) is not None:
        asked = Command(name="why", args={"path": os.path.join(watch.path, name)})
        reply = send(settings.daemon.state_dir, asked, timeout=30.0)
        print(f"{shown(name)} in watch {watch.name}: {reply.text}")
        status = 0 if reply.ok else 1
    else:
        text = _without_daemon(settings, watch, name)
        print(f"{shown(name)} in watch {watch.name}: no daemon is running; {text}")
        status = 0
    for line in _visits(settings, watch, name):
        print(line)
    return status


def _elsewhere(settings: Settings, path: bytes) -> str:
    """What is to be said about a path outside of every watch."""
    real = os.path.realpath(path)
    for watch in settings.watch:
        roles = {"outbox": watch.outbox, "archive": watch.archive, "failed folder": watch.failed}
        for role, folder in roles.items():
            if folder and (real + b"/").startswith(os.path.realpath(folder) + b"/"):
                where = f"the {role} of watch {watch.name}"
                return f"{shown(path)} lies in {where}: nothing is taken from there"
    watched = ", ".join(shown(watch.path) for watch in settings.watch)
    return f"{shown(path)} lies in no watched folder; watched are {watched}"


def _without_daemon(settings: Settings, watch: WatchSettings, name: bytes) -> str:
    """What would become of the file if a daemon ran, as far as a look can tell."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # see intake/lease.py
    try:
        local = find_place(watch.path, require_mount=watch.require_mount).local
    except Transient as error:
        return f"and its watch is offline: {error}"
    found = look_at(watch.path, name, local=local, takes=recipe_named(watch.recipe).takes)
    if isinstance(found, Skip):
        return f"when it runs, it leaves this alone: {found.reason}"
    newest = next(iter(_jobs(settings, watch, name)), None)
    if newest is not None and newest.state in OPEN:
        return f"when it runs, it goes on with job {newest.label}, which is {newest.state}"
    if newest is not None and _stayed(newest, found):
        again = f" or use `penstock jobs retry {newest.id}`" if newest.state in RETRIED else ""
        return (
            f"when it runs, it leaves this alone: job {newest.label} was about the same bytes and "
            f"is {newest.state}; change the file{again}"
        )
    return _by_probe(watch, name, local=local)


def _stayed(job: Job, found: Sighting) -> bool:
    """Whether an ended visit of these very bytes left them in place, so that they are not new."""
    if job.state not in STAYED or job.original_to:
        return False
    mine = job.sighting
    # On a share the inode says nothing.
    same_inode = found.ino in (mine.ino, 0) or mine.ino == 0
    return (mine.size, mine.mtime_ns) == (found.size, found.mtime_ns) and same_inode


def _by_probe(watch: WatchSettings, name: bytes, *, local: bool) -> str:
    close = probe(watch.path, name, local=local)
    if close.problem:
        return f"when it runs, it waits until it can read this: {close.problem}"
    if close.writer is Writer.OPEN:
        return "when it runs, it waits: another program is still writing this"
    if isinstance(close.shape, Incomplete):
        return f"when it runs, it waits for the rest: it {close.shape.reason}"
    if close.sighting is not None and close.sighting.size == 0:
        return "when it runs, this fails: it is empty"
    return f"when it runs, it takes this once it was quiet for {watch.settle_seconds:g} s or more"


def _jobs(settings: Settings, watch: WatchSettings, name: bytes) -> list[Job]:
    """The file's visits, newest first; none where there is no ledger yet."""
    try:
        with Reader(ledger_path(settings)) as reader:
            return reader.visits(watch.name, name)
    except LedgerError:
        return []


def _visits(settings: Settings, watch: WatchSettings, name: bytes) -> list[str]:
    now = time.time()
    lines = []
    for job in _jobs(settings, watch, name)[:VISITS]:
        told = f": {shown(job.reason, 1000)}" if job.reason else ""
        if job.state is State.DONE:
            told = f": the result is in {shown(os.path.join(watch.outbox, job.target))}"
        if job.original_to and job.state in ENDED:
            told += f"; the original went to {shown(job.original_to)}"
        lines.append(f"  job {job.label} {job.state}, {moment(job.updated_at, now)}{told}")
    return lines
