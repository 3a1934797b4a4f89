"""`penstock status`: what the daemon is doing, read from the status file that it writes."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from daemon.cli.common import settings_of, status_path
from daemon.lock import holder
from daemon.settings import Settings
from daemon.tell.status import Status, is_fresh, read_status
from pipeline.core.errors import PenstockError
from pipeline.core.text import human_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY_S = 1.0


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `status`."""
    parser = commands.add_parser(
        "status",
        help="what the daemon is doing now",
        description="Shows what the daemon is doing. Exit status: 0 if it runs, "
        "1 if it does not or has stopped telling.",
    )
    parser.add_argument("--json", action="store_true", help="print the status document as it is")
    parser.add_argument(
        "--watch", action="store_true", help="show it again every second, until Ctrl-C"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if a daemon runs and tells, 1 if not."""
    settings = settings_of(args)
    once = _document if args.json else _page
    if not args.watch:
        return once(settings)
    if args.json or not sys.stdout.isatty():
        return _repeat(lambda: once(settings))
    return _live(settings)


def trouble(settings: Settings, status: Status, now: float) -> str:
    """Why the status is not to be trusted, as a sentence; empty if a daemon stands behind it."""
    if is_fresh(status, now) and status.state != "stopped":
        return ""
    seen = f"last seen {human_seconds(now - status.updated_at)} ago"
    if status.updated_at > now:
        seen = "its last word is from the future: the clock was set back"
    who = holder(settings.daemon.state_dir)
    if who is not None:
        pid = f"pid {who['pid']}" if "pid" in who else "a process"
        return f"{pid} holds the state folder but does not write its status ({seen})"
    how = "it was stopped" if status.state == "stopped" else "it ended without a word"
    return f"no daemon is running ({seen}; {how})"


def _document(settings: Settings) -> int:
    path = status_path(settings)
    why = trouble(settings, read_status(path), time.time())
    with open(path, "rb") as file:
        text = file.read().decode("utf-8", "backslashreplace")
    print(text, end="", flush=True)
    if why:
        print(f"penstock: {why}", file=sys.stderr)
    return 1 if why else 0


def _page(settings: Settings) -> int:
    from daemon.cli.common import console

    view, result = _view(settings)
    console().print(view)
    return result


def _view(settings: Settings) -> "tuple[RenderableType, int]":
    from daemon.cli.status_page import page

    status, now = read_status(status_path(settings)), time.time()
    why = trouble(settings, status, now)
    return page(status, why, now), 1 if why else 0


def _repeat(once: Callable[[], int]) -> int:
    result = 1
    try:
        while True:
            try:
                result = once()
            except PenstockError as error:
                print(f"penstock: {error}", file=sys.stderr)
                result = 1
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return result


def _live(settings: Settings) -> int:
    from rich.live import Live
    from rich.text import Text

    from daemon.cli.common import console

    result = 1
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    view, result = _view(settings)
                except PenstockError as error:
                    view, result = Text(str(error), style="red"), 1
                live.update(view, refresh=True)
                time.sleep(EVERY_S)
        except KeyboardInterrupt:
            return result
