"""The log: native journald entries with fields under systemd, plain lines on stderr elsewhere.

A file name can forge nothing: each message is one escaped line, and the lines of a traceback are
escaped one by one and never look like messages.
"""

import logging
import os
import select
import socket
import sys
from datetime import datetime
from typing import TextIO

from pipeline.core.text import shown

JOURNAL_SOCKET = "/run/systemd/journal/socket"
MESSAGE_LIMIT = 4000  # characters
TRACE_LINES = 60  # lines kept of a traceback, from its end
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG_PRIORITY = 7
FIELDS = ("watch", "job", "event", "file")  # of `extra`; in the journal PENSTOCK_WATCH …


def setup(
    level: str, stream: TextIO | None = None, *, journal_socket: str = JOURNAL_SOCKET
) -> None:
    """Send the log where it belongs; may be called again with another level or stream.

    `level` (debug, info, warning, error) is that of the logger tree "penstock"; of libraries only
    warnings are taken, through the same escaping. If `stream` (stderr if None) is the journal's,
    entries go to `journal_socket` with fields; otherwise lines go to the stream.
    """
    target = sys.stderr if stream is None else stream
    handler: logging.Handler = (
        JournalHandler(target, journal_socket) if is_journal(target) else LineHandler(target)
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, LineHandler | JournalHandler):
            root.removeHandler(old)
            old.close()
    root.addHandler(handler)
    logging.getLogger("penstock").setLevel(logging.getLevelNamesMapping()[level.upper()])


def is_journal(stream: TextIO) -> bool:
    """Whether this stream is the one that systemd connected to the journal."""
    try:
        facts = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a closed stream, or one without a descriptor
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


class LineHandler(logging.Handler):
    """Lines like `2026-11-21 12:00:00 INFO    message` (local time) on a stream."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message, then its traceback with `| ` before each line; never raises."""
        moment = datetime.fromtimestamp(record.created).isoformat(" ", "seconds")
        head = f"{moment} {record.levelname:<7} "
        text = "".join(f"{head}{line}\n" for line in lines_of(record))
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads any more; there is nowhere left to say so
            return


class JournalHandler(logging.Handler):
    """Entries in journald's native protocol; lines on stderr while its socket is gone or full."""

    def __init__(self, stream: TextIO, address: str) -> None:
        super().__init__()
        self._stream = stream
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry; never raises and never blocks."""
        lines = lines_of(record)
        try:
            self._socket.sendto(encode_entry(entry_of(record, lines)), self._address)
        except OSError:
            self._fall_back(_priority(record.levelno), lines)

    def close(self) -> None:
        """Leave the socket."""
        self._socket.close()
        super().close()

    def _fall_back(self, priority: int, lines: list[str]) -> None:
        data = "".join(f"<{priority}>{line}\n" for line in lines).encode()
        try:
            fd = self._stream.fileno()
            # A stopped journald leaves this pipe full; a log line is not worth a daemon that hangs.
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if any(events & select.POLLOUT for _fd, events in poll.poll(0)):
                os.write(fd, data)
        except (OSError, ValueError):
            return


def lines_of(record: logging.LogRecord) -> list[str]:
    """The message as one escaped line, then the traceback's last lines, each after `| `."""
    trace: list[str] = []
    if record.exc_info and record.exc_info[0] is not None:
        trace = logging.Formatter().formatException(record.exc_info).split("\n")
    if record.stack_info:
        trace += record.stack_info.split("\n")
    return [_message(record), *(f"| {shown(line)}" for line in trace[-TRACE_LINES:])]


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):  # a slip in a log call must not cost the message
        text = f"{record.msg} {record.args}"
    return shown(text, MESSAGE_LIMIT)


def entry_of(record: logging.LogRecord, lines: list[str]) -> list[tuple[str, str]]:
    """The fields of one journal entry."""
    entry = [
        ("MESSAGE", "\n".join(lines)),
        ("PRIORITY", str(_priority(record.levelno))),
        ("SYSLOG_IDENTIFIER", "penstock"),
        ("CODE_FILE", shown(record.pathname)),
        ("CODE_LINE", str(record.lineno)),
        ("CODE_FUNC", shown(record.funcName or "")),
    ]
    for field in FIELDS:
        value = getattr(record, field, None)
        if value is not None and value != "" and value != b"":
            text = value if isinstance(value, str | bytes) else str(value)
            entry.append((f"PENSTOCK_{field.upper()}", shown(text, MESSAGE_LIMIT)))
    return entry


def encode_entry(entry: list[tuple[str, str]]) -> bytes:
    """Journald's native form: `KEY=value`, or with a 64-bit length where a value has newlines."""
    parts: list[bytes] = []
    for key, text in entry:
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            size = len(value).to_bytes(8, "little")
            parts.append(b"%s\n%s%s\n" % (key.encode("ascii"), size, value))
        else:
            parts.append(b"%s=%s\n" % (key.encode("ascii"), value))
    return b"".join(parts)


def _priority(level: int) -> int:
    return next((number for least, number in PRIORITIES if level >= least), DEBUG_PRIORITY)
