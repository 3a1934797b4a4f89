"""What several commands share: the console, a question to the daemon, a path's watch."""

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from daemon.config import find_config, read_config
from daemon.settings import Settings, WatchSettings
from daemon.tell.control import Command, send
from pipeline.core.text import human_seconds

if TYPE_CHECKING:
    from rich.console import Console

STATUS_FILE = b"status.json"
LEDGER_FILE = b"ledger.db"


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that `--config` names; ConfigError if they can not be used."""
    return read_config(find_config(args.config))


def console() -> "Console":
    """Where people read. A name can never be markup there, and a pipe gets lines of any length."""
    from rich.console import Console

    # A pipe has no width: tables for programs that read lines must not be folded at 80.
    width = None if sys.stdout.isatty() else 200
    return Console(markup=False, emoji=False, highlight=False, width=width, soft_wrap=False)


def ask(settings: Settings, name: str, **args: Any) -> int:
    """Send a command to the daemon and print its answer; exit status 0 if it did it."""
    reply = send(settings.daemon.state_dir, Command(name=name, args=args), timeout=30.0)
    print(reply.text, file=sys.stdout if reply.ok else sys.stderr)
    return 0 if reply.ok else 1


def status_path(settings: Settings) -> bytes:
    """Where the daemon of these settings writes its status."""
    return os.path.join(settings.daemon.state_dir, STATUS_FILE)


def ledger_path(settings: Settings) -> bytes:
    """Where its ledger lies."""
    return os.path.join(settings.daemon.state_dir, LEDGER_FILE)


def place_in(settings: Settings, path: bytes) -> tuple[WatchSettings, bytes] | None:
    """The watch that an absolute path lies in, and its name there; None if it lies in none.

    Links on the way to the watched folder are seen through; the file itself may be a link.
    """
    folder, base = os.path.split(path)
    real = os.path.join(os.path.realpath(folder), base)
    for watch in settings.watch:
        for root, asked in ((watch.path, path), (os.path.realpath(watch.path), real)):
            if asked.startswith(root.rstrip(b"/") + b"/"):
                return watch, os.path.relpath(asked, root)
    return None


def moment(at: float | None, now: float) -> str:
    """A wall-clock moment as people say it: `4.2 s ago`, or its date when that is long past."""
    if at is None:
        return "never"
    passed = now - at
    if 0 <= passed < 36 * 3600:
        return f"{human_seconds(passed)} ago"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
