"""A watcher at work in a test: its folder, what it posts, and what is done to the folder."""

import os
import queue
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

from daemon.intake.bell import Bell
from daemon.intake.findings import Event, Online, Scanned
from daemon.intake.watch import Watcher
from daemon.settings import WatchSettings

TAKES = frozenset({b".wav"})
PATIENCE = 20.0  # seconds; only a failing test waits for so long
NEVER = 3600.0  # between scans: only what wakes the watcher makes it look
Kind = TypeVar("Kind", bound=Event)


class House:
    """A started watcher and the queue of what it posts."""

    def __init__(self, root: bytes, bell: Bell | None, pin: str, **more: Any) -> None:
        self.root = root
        self.events: queue.Queue[Event] = queue.Queue()
        more = {"scan_seconds": NEVER} | more
        settings = WatchSettings(
            name="talks", path=root, recipe="transcribe", outbox=b"/out", **more
        )
        self.watcher = Watcher(settings, TAKES, self.events.put, pin=pin, bell=bell)
        self.watcher.start()

    def ready(self) -> Scanned:
        """The first scan, once it is done."""
        self.next(Online)
        return self.next(Scanned)

    def next(self, kind: type[Kind]) -> Kind:
        """The next event, which must be of this kind."""
        event = self.events.get(timeout=PATIENCE)
        assert isinstance(event, kind), event
        return event

    def wait(self, kind: type[Kind], fits: Callable[[Kind], object] = lambda _event: True) -> Kind:
        """The next event of this kind that fits; others before it are dropped."""
        while True:
            event = self.events.get(timeout=PATIENCE)
            if isinstance(event, kind) and fits(event):
                return event

    def scan(self) -> Scanned:
        """Ask for a scan and return what it says."""
        self.watcher.look()
        return self.next(Scanned)

    def heard(self, count: int = 1) -> set[bytes]:
        """So many changed names, over as many scans as it takes, without asking for any."""
        names: set[bytes] = set()
        while len(names) < count:
            names |= changed(self.wait(Scanned))
        return names

    def put(self, name: bytes, data: bytes = b"x") -> bytes:
        """Write a file into the folder."""
        return put(self.root, name, data)


def put(root: bytes, name: bytes, data: bytes = b"x") -> bytes:
    """Write a file below root, with the folders on the way; returns its path."""
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return path


def changed(scanned: Scanned) -> set[bytes]:
    """The names that a scan calls new or changed."""
    return {sighting.name for sighting in scanned.changed}


def mount(point: bytes, source: str) -> bool:
    """Mount a tmpfs there; False if this machine does not let us."""
    if os.geteuid() != 0 or not shutil.which("mount") or not shutil.which("umount"):
        return False
    command = ["mount", "-t", "tmpfs", source, os.fsdecode(point)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def umount(point: bytes) -> None:
    """Take the topmost mount away."""
    subprocess.run(["umount", "-l", os.fsdecode(point)], check=True)
