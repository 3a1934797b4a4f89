"""Doctor's look at the host: interpreter, programs, clock, the right to ask who writes a file."""

import ctypes
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from daemon.cli.common import status_path
from daemon.cli.findings import Finding, ok, problem, warning
from daemon.intake.lease import Writer, writer_of
from daemon.lock import holder
from daemon.settings import Settings
from pipeline.core.errors import ConfigError
from pipeline.core.text import shown

SAFE_SQLITE = (3, 51, 3)  # before it, two connections that write can damage a WAL database
PROGRAM_S = 10.0
CAP_LEASE = 28  # linux/capability.h
TIME_ERROR = 5  # adjtimex: the clock is not synchronised
TIMEX_BYTES = 512  # more than any kernel's struct timex
FUTURE_S = 60.0


def programs() -> Iterator[Finding]:
    """Python, SQLite, FFmpeg's programs."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield ok("python", f"Python {version} at {shown(sys.executable)}")
    note = ""
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        note = (
            "; before 3.51.3 two writing connections can damage a ledger: Penstock has only one, "
            "so let no other program write to ledger.db"
        )
    yield ok("sqlite", f"SQLite {sqlite3.sqlite_version}{note}")
    for name in ("ffmpeg", "ffprobe"):
        yield _program(name)


def _program(name: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        hint = "apt install ffmpeg; the recipes of this version work without it"
        return warning("programs", f"{name} is not on PATH", hint)
    try:
        told = subprocess.run(
            [path, "-version"], stdin=subprocess.DEVNULL, capture_output=True,
            timeout=PROGRAM_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return warning("programs", f"{path} does not run: {error}", "install ffmpeg again")
    words = shown(told.stdout.split(b"\n")[0], 80)
    if told.returncode != 0:
        return warning("programs", f"{path} does not run: {words}", "install ffmpeg again")
    return ok("programs", f"{words.partition(' Copyright')[0]} at {shown(path)}")


def clock(settings: Settings | None) -> Iterator[Finding]:
    """Whether the clock is right, as far as this machine can tell."""
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    ahead = 0.0 if settings is None else _ahead(status_path(settings)) - time.time()
    if ahead > FUTURE_S:
        yield problem(
            "clock", f"it is {now} here, but the last status was written {ahead:.0f} s later",
            "set the clock; times in reports and the order of files depend on it",
        )  # fmt: skip
        return
    buffer = ctypes.create_string_buffer(TIMEX_BYTES)  # all zero: only ask
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    if state == TIME_ERROR:
        yield warning(
            "clock", f"{now}, and nothing keeps the clock right",
            "start a time service (systemd-timesyncd or chrony), if the host has none either",
        )  # fmt: skip
    else:
        yield ok("clock", f"{now}{', synchronised' if state >= 0 else ''}")


def _ahead(path: bytes) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def leases(settings: Settings | None) -> Iterator[Finding]:
    """Whether the service can ask the kernel who is writing a file (F_SETLEASE)."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # see intake/lease.py
    folder = None if settings is None else settings.daemon.state_dir
    with tempfile.TemporaryFile(dir=folder if folder and os.path.isdir(folder) else None) as file:
        fd = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            seen = writer_of(fd)  # our own descriptor has it open for writing
        finally:
            os.close(fd)
    if seen is not Writer.OPEN:
        yield warning(
            "leases", "this kernel or file system does not tell who is writing a file",
            "nothing to do: files must be quiet three times as long instead",
        )  # fmt: skip
        return
    who, mask = _rights(settings)
    if mask & (1 << CAP_LEASE):
        yield ok("leases", f"{who} can ask about everybody's files (CAP_LEASE)")
        return
    yield warning(
        "leases", f"{who} can ask who is writing a file only about its own files",
        "for files of other users give the service CAP_LEASE (AmbientCapabilities=CAP_LEASE in "
        "its unit); without it such files must be quiet three times as long",
    )  # fmt: skip


def _rights(settings: Settings | None) -> tuple[str, int]:
    """Whose capabilities count, and which they are: the running daemon's, else our own."""
    pid: object = None
    if settings is not None:
        try:
            pid = (holder(settings.daemon.state_dir) or {}).get("pid")
        except ConfigError:
            pid = None
    mask = _capabilities(f"/proc/{pid}/status") if isinstance(pid, int) else None
    if mask is not None:
        return f"the daemon (pid {pid})", mask
    return "this user", _capabilities("/proc/self/status") or 0


def _capabilities(path: str) -> int | None:
    try:
        with open(path) as file:
            line = next((line for line in file if line.startswith("CapEff:")), None)
    except OSError:
        return None
    return None if line is None else int(line.split()[1], 16)
