"""The file monitor's log: one JSON line for each event of a file's walk, rotated by size."""

import json
import logging
import os
from contextlib import suppress
from datetime import datetime
from typing import Any

from daemon.tell.harmless import harmless
from pipeline.core.contract import Usage
from pipeline.core.text import shown

log = logging.getLogger("penstock.tell.file_monitor")

EVENTS = (
    "seen",  # a new or changed file in a watch
    "settled",  # proven whole
    "admitted",  # a job, with a place in the queue
    "started",  # its order was sent to the worker
    "stage",  # one stage finished, with its engine, device and seconds
    "output",  # one finished file of the result, with its size
    "cleanup",  # memory was given back
    "tier",  # memory pressure changed its tier
    "plan",  # how much a stage takes at once, and why
    "memory",  # a memory check
    "recovery",  # a step of the ladder after memory ran out
    "verdict",  # whether a stage really used the card
    "device_lost",  # the card is gone; all work goes on without it
    "device_back",  # a probe found the card working again
    "published",  # the result folder stands in the outbox
    "archived",  # the original went where `after` says
    "failed",  # failed for good, with the reason
    "cancelled",  # by a person
    "superseded",  # the file changed while it was a job
    "gone",  # the file was deleted before its result
    "retried",  # back into the queue for another attempt
    "offline",  # a watch can not be reached
    "online",  # a watch is back
    "worker_started",
    "worker_lost",
    "paused",
    "resumed",
    "disk_low",
    "disk_ok",
)


class FileMonitor:
    """Appends whole lines to `path`; beyond `max_bytes` the file becomes `.1`, `.2` … up to `keep`.

    For one writer. Each line opens the file anew, so a log that was moved, deleted or lies on a
    disk that was full comes back by itself.
    """

    def __init__(self, path: bytes, *, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._missed = 0

    def write(
        self,
        event: str,
        *,
        watch: str = "",
        job: int | None = None,
        file: bytes = b"",
        now: float,
        usage: Usage | None = None,
        **facts: object,
    ) -> None:
        """Append one event (see EVENTS); `now` is wall-clock seconds. Never raises on a bad disk.

        A file is named as everywhere in the logs: escaped, on one line. A fact may not take the
        name of a field that every line has; such a fact is left out.
        """
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(now).astimezone().isoformat(timespec="milliseconds"),
            "event": event,
            "watch": watch,
            "job": job,
            "file": file,
        }
        memory = _memory(usage or Usage())
        extra = {key: fact for key, fact in facts.items() if key not in fields | memory}
        line = json.dumps(harmless(fields | extra | memory), separators=(",", ":"))
        try:
            self._append(line.encode("ascii") + b"\n")
        except OSError as error:
            self._fail(error)
        else:
            self._succeed()

    def _append(self, line: bytes) -> None:
        fd = self._open()
        try:
            size = os.fstat(fd).st_size
            if size and size + len(line) > self._max_bytes:
                self._rotate()
                os.close(fd)
                fd = -1
                fd = self._open()
                size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # a power cut left half a line
            _write_or_leave(fd, line, size)
        finally:
            if fd >= 0:
                os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(self._path, flags, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path) or b".", exist_ok=True)
            return os.open(self._path, flags, 0o644)

    def _rotate(self) -> None:
        if self._keep < 1:
            os.unlink(self._path)
            return
        for number in range(self._keep, 1, -1):
            with suppress(FileNotFoundError):
                os.replace(self._numbered(number - 1), self._numbered(number))
        os.replace(self._path, self._numbered(1))

    def _numbered(self, number: int) -> bytes:
        return b"%s.%d" % (self._path, number)

    def _fail(self, error: OSError) -> None:
        if not self._missed:
            log.warning(
                "%s can not be written: %s; file events are not recorded until it can",
                shown(self._path),
                error.strerror,
            )
        self._missed += 1

    def _succeed(self) -> None:
        if self._missed:
            log.info("%s is written again; events missed: %d", shown(self._path), self._missed)
        self._missed = 0


def _write_or_leave(fd: int, line: bytes, size: int) -> None:
    """One write takes it all, unless the disk fills up in the middle: then nothing stays."""
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, size)
        raise


def _memory(usage: Usage) -> dict[str, int | None]:
    return {
        "ram": usage.rss,
        "ram_free": usage.ram_free,
        "vram": usage.vram,
        "vram_free": usage.vram_free,
        "gpu": usage.gpu,
    }
