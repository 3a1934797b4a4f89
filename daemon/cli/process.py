"""`penstock process`: the same service over a list of files, until every one of them is handled."""

import argparse
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from daemon.cli.given import Given, sort_out
from daemon.cli.options import WrongOption, parse_options
from daemon.cli.outcome import Outcome, Summary, outcome_of
from daemon.cli.progress import Progress, progress
from daemon.config import read_config
from daemon.intake.mounts import is_network
from daemon.lock import StateLock
from daemon.settings import DaemonSettings, QueueSettings, Settings, WatchSettings
from daemon.tell import journal
from pipeline.core.errors import BusyError, ConfigError, PenstockError
from pipeline.core.files import make_folders
from pipeline.core.recipes import RECIPES, recipe_named
from pipeline.core.text import shown

if TYPE_CHECKING:
    from daemon.service import Service
    from daemon.tell.status import Status
    from daemon.values import Job

FOLDERS_LIMIT = 200  # each watched folder costs two threads
WAITS_S = 2.0  # a file that is not taken for so long is worth a word
WAITS_SHOWN = 3
STOP_S = 1.0  # a person who pressed Ctrl-C does not want to wait for a running job
SHELF = b".penstock"
EX_INTERRUPTED = 130


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `process`."""
    parser = commands.add_parser(
        "process",
        help="turn the given files into a recipe's results, without a daemon",
        description="Runs a recipe on files, or on all files of folders; the originals stay. "
        "Exit status: 0 all done, 1 some failed, 130 interrupted.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, or a folder of files")
    parser.add_argument("--recipe", required=True, choices=list(RECIPES), help=_recipes())
    parser.add_argument("--output", required=True, metavar="DIR", help="where results go")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the recipe"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: as configured")
    parser.add_argument("--lanes", type=int, choices=range(1, 17), metavar="N",
                        help="files at once, 1 to 16")  # fmt: skip
    parser.add_argument("--log", metavar="DIR", help="keep file_monitor.jsonl there")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    parser.add_argument(
        "--config", metavar="FILE",
        help="take recipe options, [models], [worker] and [gpu] from it (default: ./config.toml)",
    )  # fmt: skip
    parser.set_defaults(run=run, usage_error=parser.error)


def _recipes() -> str:
    return "; ".join(f"{recipe.name}: {recipe.about}" for recipe in RECIPES.values())


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if every file is done, 1 if any failed, 130 if it was interrupted."""
    begun = time.monotonic()
    recipe = recipe_named(args.recipe)
    base = _base(args.config)
    try:
        options = parse_options(args.option, recipe, base.recipes.get(recipe.name, {}))
    except WrongOption as error:
        args.usage_error(str(error))
    output = os.path.realpath(os.fsencode(args.output))
    given = sort_out(map(os.fsencode, args.files), recipe)
    _check_folders(args, given, output)
    outcomes = [
        Outcome(path=each.path, state="failed", reason=each.reason) for each in given.refused
    ]
    interrupted = False
    _make_output(output)
    with progress(len(outcomes) + given.count, quiet=args.json) as show:
        for outcome in outcomes:
            show.ended(shown(outcome.path), good=False, told=outcome.why)
        if given.count:
            with _workplace(output) as state:
                settings = _settings(args, base, given, options, output, state)
                batch = _Batch(settings, given, show)
                interrupted = batch.run()
                outcomes += batch.all_outcomes(interrupted=interrupted)
    summary = Summary(
        recipe=recipe.name, output=output, seconds=time.monotonic() - begun,
        outcomes=outcomes, interrupted=interrupted,
    )  # fmt: skip
    _tell(summary, as_json=args.json)
    if interrupted:
        return EX_INTERRUPTED
    return 0 if summary.count("done") == len(outcomes) else 1


def _tell(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(summary.as_json())
        return
    from daemon.cli.common import console

    console().print(summary.table())


def _base(config: str | None) -> Settings:
    """The settings of a config that is named or lies here; without one, the defaults."""
    if config is None and not os.path.exists("config.toml"):
        # No models folder of our own: engines then use their libraries' caches.
        return msgspec.structs.replace(
            Settings(), models=msgspec.structs.replace(Settings().models, dir=b"")
        )
    return read_config(config or "config.toml")


def _check_folders(args: argparse.Namespace, given: Given, output: bytes) -> None:
    for folder in given.folders:
        if (output + b"/").startswith(folder.rstrip(b"/") + b"/"):
            args.usage_error(
                f"--output {shown(output)} lies in the given folder {shown(folder)}: "
                "results would be taken for files to process; choose another folder"
            )
    if len(given.names) > FOLDERS_LIMIT:
        args.usage_error(
            f"files from {len(given.names)} folders were named, at most {FOLDERS_LIMIT} are "
            "possible at once; name a folder that holds them all, or fewer files"
        )


def _make_output(output: bytes) -> None:
    try:
        make_folders(output)
    except OSError as error:
        raise ConfigError(
            f"the output folder {shown(output)} can not be made: {error.strerror}",
            "choose another with --output",
        ) from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise ConfigError(f"the output folder {shown(output)} can not be written")


@contextmanager
def _workplace(output: bytes) -> Iterator[bytes]:
    """A folder for ledger and scratch on the results' disk; gone afterwards, whatever happens.

    Where that is a network share, which a ledger must not lie on, a local temporary folder.
    """
    shelf = os.path.join(output, SHELF)
    if is_network(output):
        place = os.fsencode(tempfile.mkdtemp(prefix="penstock-", dir="/var/tmp"))  # noqa: S108  # mkdtemp
    else:
        _sweep(shelf)
        place = os.path.join(shelf, b"process-%d" % os.getpid())
    try:
        with StateLock.acquire(place):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # another one is at work there
            os.rmdir(shelf)


def _sweep(shelf: bytes) -> None:
    """Remove the workplaces of calls that were killed: nobody holds their locks."""
    try:
        names = [name for name in os.listdir(shelf) if name.startswith(b"process-")]
    except OSError:
        return
    for name in names:
        place = os.path.join(shelf, name)
        with suppress(BusyError, PenstockError), StateLock.acquire(place):
            shutil.rmtree(place, ignore_errors=True)


def _settings(
    args: argparse.Namespace,
    base: Settings,
    given: Given,
    options: dict[str, object],
    output: bytes,
    state: bytes,
) -> Settings:
    """A service over exactly these files, which leaves the originals alone."""
    watches = tuple(
        WatchSettings(
            name=f"files-{number}", path=root, recipe=args.recipe, outbox=output,
            archive=b"", failed=b"", after="keep", settle_seconds=0.0, incomplete_seconds=0.0,
            receipts=False, options=options, only=frozenset(names),
        )
        for number, (root, names) in enumerate(given.names.items(), start=1)
    )  # fmt: skip
    worker, gpu = base.worker, base.gpu
    if args.lanes is not None:
        worker = msgspec.structs.replace(worker, lanes=args.lanes)
    if args.device is not None:
        gpu = msgspec.structs.replace(gpu, device=args.device)
    log_dir = os.path.abspath(os.fsencode(args.log)) if args.log else os.path.join(state, b"logs")
    return Settings(
        daemon=DaemonSettings(
            state_dir=state, log_dir=log_dir, log_level="warning",
            status_seconds=0.25, stop_seconds=STOP_S,
        ),
        queue=QueueSettings(retry_seconds=2.0, disk_low_gb=0.5, disk_stop_gb=0.2),
        worker=worker, gpu=gpu, models=base.models, recipes=base.recipes, watch=watches,
    )  # fmt: skip


class _Batch:
    """One service over one list, and what became of each file."""

    def __init__(self, settings: Settings, given: Given, show: Progress) -> None:
        self._settings = settings
        self._show = show
        self._output = settings.watch[0].outbox
        self._paths = {
            (watch.name, name): path
            for watch, names in zip(settings.watch, given.names.values(), strict=True)
            for name, path in names.items()
        }
        self._outcomes: dict[tuple[str, bytes], Outcome] = {}
        self._held: dict[str, str] = {}
        self._interrupted = False
        self._service: Service | None = None

    def run(self) -> bool:
        """Work until all is done; True if it was interrupted."""
        from daemon.service import Service

        journal.setup("warning")
        logging.getLogger("penstock.job").addFilter(_not_an_end)
        service = Service(self._settings, watcher_of_progress=self._look)
        self._service = service
        record = service.walk.on_end

        def ended(job: "Job", stays: bool) -> None:
            record(job, stays)
            self._ended(job)

        service.walk.on_end = ended
        with self._signals():
            service.run(until_idle=True, control=False)
        self._held = {room.settings.name: room.reason for room in service.desk.rooms.values()}
        return self._interrupted

    def all_outcomes(self, *, interrupted: bool) -> list[Outcome]:
        """One for each file, in the order in which they were named."""
        return [
            self._outcomes.get(key) or self._unended(key, path, interrupted=interrupted)
            for key, path in self._paths.items()
        ]

    def _unended(self, key: tuple[str, bytes], path: bytes, *, interrupted: bool) -> Outcome:
        if interrupted:
            return Outcome(path=path, state="stopped", reason="interrupted; run it again")
        reason = self._held.get(key[0]) or "it was not there any more when its turn came"
        return Outcome(path=path, state="failed", reason=reason)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def asked(_number: int, _frame: FrameType | None) -> None:
            self._interrupted = True
            if self._service is not None:
                self._service.stop()

        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, asked) for number in wanted}
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # see intake/lease.py
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ended(self, job: "Job") -> None:
        from daemon.values import State

        key = (job.watch, job.name)
        if job.state is State.SUPERSEDED or key not in self._paths:
            return  # its new bytes are another visit
        outcome = outcome_of(job, self._paths[key], self._output)
        self._outcomes[key] = outcome
        good = outcome.state == "done"
        told = shown(outcome.result) if good else shown(outcome.why, 1000)
        self._show.ended(shown(outcome.path), good=good, told=told)

    def _look(self, status: "Status") -> None:
        assert self._service is not None
        jobs = self._service.desk.jobs
        running = [
            msgspec.structs.replace(entry, file=shown(self._path_of(jobs[entry.job])))
            for entry in status.running
            if entry.job in jobs
        ]
        self._show.running(running)
        idle = not status.running
        notes = [*status.problems, status.queue.held if idle else "", *self._waiting()]
        self._show.note("; ".join(note for note in notes if note))

    def _path_of(self, job: "Job") -> bytes:
        return self._paths.get((job.watch, job.name), job.name)

    def _waiting(self) -> list[str]:
        """Files that can not be taken yet, and why."""
        assert self._service is not None
        now = self._service.desk.clock()
        held = [
            f"{shown(self._paths.get(key, key[1]))} waits: {tracker.held}"
            for key, tracker in self._service.arrivals.trackers.items()
            if now - tracker.first_seen > WAITS_S
        ]
        more = len(held) - WAITS_SHOWN
        return held[:WAITS_SHOWN] + ([f"and {more} more wait"] if more > 0 else [])


def _not_an_end(record: logging.LogRecord) -> bool:
    """The end of each file is told on stdout; only its troubles on the way belong in the log."""
    return record.levelno < logging.ERROR
