"""`penstock jobs`: what the ledger knows of files, and asking for another try or an end."""

import argparse
import os
import time
from typing import TYPE_CHECKING

import msgspec

from daemon.cli.common import ask, console, ledger_path, moment, settings_of
from daemon.queue.reader import Reader
from daemon.queue.rows import Event
from daemon.settings import Settings
from daemon.tell.harmless import harmless
from daemon.values import OPEN, Job, State
from pipeline.core.errors import PenstockError
from pipeline.core.text import human_bytes, human_seconds, shown

if TYPE_CHECKING:
    from rich.table import Table

ACTIONS = ("list", "show", "retry", "cancel")
COLOURS = {State.DONE: "green", State.FAILED: "red", State.FAILING: "red"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `jobs`."""
    about = "list the jobs, show one, try one again or cancel one"
    parser = commands.add_parser(
        "jobs",
        help=about,
        description=f"{about}. `list` and `show` read the ledger, also while no daemon runs; "
        "`retry` and `cancel` ask the daemon.",
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument("job", nargs="?", type=int, metavar="N", help="the job's number")
    parser.add_argument(
        "--state", action="append", choices=[state.value for state in State], metavar="STATE",
        help=f"only jobs in this state (may be given again): {', '.join(State)}",
    )  # fmt: skip
    parser.add_argument("--watch", metavar="NAME", help="only jobs of this watch")
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="at most so many")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, usage_error=parser.error)


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000000")
    return number


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if it was done, 1 if there is no such job or it can not be done."""
    if (args.job is None) != (args.action == "list"):
        args.usage_error(
            "list takes no number" if args.action == "list" else f"{args.action} needs a number"
        )
    settings = settings_of(args)
    if args.action in ("retry", "cancel"):
        return ask(settings, args.action, job=args.job)
    if args.action == "show":
        _show(settings, args.job, as_json=args.json)
    else:
        _list(settings, args)
    return 0


def _list(settings: Settings, args: argparse.Namespace) -> None:
    states = {State(name) for name in args.state or State}
    if args.watch is not None and settings.watch_named(args.watch) is None:
        names = ", ".join(watch.name for watch in settings.watch)
        raise PenstockError(f"there is no watch {shown(args.watch)}", f"the config has {names}")
    with Reader(ledger_path(settings)) as reader:
        jobs = reader.jobs(limit=args.limit, states=states, watch=args.watch)
        counts = reader.counts()
    if args.json:
        print(_json([harmless(job) for job in jobs]))
        return
    screen = console()
    if jobs:
        screen.print(_table(jobs, settings))
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    screen.print(f"all jobs: {said or 'none yet'}")


def _table(jobs: list[Job], settings: Settings) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("JOB", "STATE", "WATCH", "CHANGED", "TRY", "FILE", ""):
        table.add_column(name, no_wrap=name != "", overflow="ellipsis")
    now = time.time()
    for job in jobs:
        table.add_row(
            job.label,
            Text(
                job.state.value, style=COLOURS.get(job.state, "cyan" if job.state in OPEN else "")
            ),
            job.watch,
            moment(job.updated_at, now),
            str(job.attempt),
            Text(shown(job.name, 60)),
            Text(_outcome(job, settings)),
        )
    return table


def _outcome(job: Job, settings: Settings) -> str:
    """Where the result is, or why there is none."""
    if job.state is State.DONE:
        return f"→ {result_of(job, settings)}"
    return job.reason


def result_of(job: Job, settings: Settings) -> str:
    """The result folder, as far as the config still knows its outbox."""
    watch = settings.watch_named(job.watch)
    return shown(os.path.join(watch.outbox, job.target) if watch else job.target)


def _show(settings: Settings, number: int, *, as_json: bool) -> None:
    with Reader(ledger_path(settings)) as reader:
        job = reader.job(number)
        history = reader.history(number) if job else []
    if job is None:
        raise PenstockError(f"there is no job {number:06d}", "see `penstock jobs`")
    if as_json:
        print(_json({"job": harmless(job), "history": [harmless(event) for event in history]}))
        return
    for line in described(job, history, settings):
        print(line)


def described(job: Job, history: list[Event], settings: Settings) -> list[str]:
    """A job in full, as lines; every name in them is escaped."""
    lines = [
        f"job {job.label}: {job.state}",
        f"file      {shown(job.source)} ({human_bytes(job.sighting.size)})",
        f"watch     {job.watch}, recipe {job.recipe}, priority {job.priority}",
        f"options   {shown(msgspec.json.encode(job.options)) if job.options else 'as configured'}",
        f"attempts  {job.attempt}" + (f", {job.kills} ended the worker" if job.kills else ""),
    ]
    if job.reason:
        lines.append(f"reason    {shown(job.reason, 4000)}")
    if job.hint:
        lines.append(f"hint      {shown(job.hint, 4000)}")
    if job.target:
        lines.append(f"result    {result_of(job, settings)}")
    if job.original_to:
        lines.append(f"original  {shown(job.original_to)}")
    lines += ["", "outputs"] if job.outputs else []
    lines += [f"  {shown(out.name)}  {human_bytes(out.size)}" for out in job.outputs]
    lines += ["", "stages"] if job.reports else []
    for report in job.reports:
        again = ", taken over from an earlier attempt" if report.resumed else ""
        lines.append(
            f"  {report.stage}: {shown(report.engine)} on {shown(report.device)}, "
            f"{human_seconds(report.seconds)}{again}"
        )
        if report.fallback:
            lines.append(f"    FALLBACK, because {shown(report.fallback, 4000)}")
        if report.facts:
            facts = ", ".join(f"{key} {value}" for key, value in report.facts.items())
            lines.append(f"    {shown(facts, 4000)}")
    lines += ["", "history"]
    for event in history:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
        detail = f": {shown(event.detail, 4000)}" if event.detail else ""
        lines.append(f"  {at}  {event.state:<10} {shown(event.event, 4000)}{detail}")
    return lines


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
