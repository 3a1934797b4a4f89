"""What systemd hears from the daemon, through the sdnotify package and never unsanitised.

A newline in a message begins a new assignment there: a file called `x\\nWATCHDOG=trigger` could
make systemd kill the service. So values pass through shown(), and keys are written here.
"""

import logging
import os
import time
import warnings

from sdnotify import SystemdNotifier

from pipeline.core.text import shown

log = logging.getLogger("penstock.tell.notify")

NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
STATUS_LIMIT = 400  # characters
SEND_SECONDS = 1.0


class Notifier:
    """The service manager's ear; every call is a no-op where NOTIFY_SOCKET is not set.

    Never raises. Waits a second at most for a busy manager; one that is gone misses the message.
    """

    def __init__(self) -> None:
        self.watchdog_seconds = watchdog_seconds()
        self._wanted = bool(os.environ.get("NOTIFY_SOCKET"))
        self._link: SystemdNotifier | None = None
        self._failing = False

    def ready(self, status: str = "") -> None:
        """The start, or a reload, is complete."""
        self._send({"READY": "1"} | _status(status))

    def status(self, text: str) -> None:
        """The one line that `systemctl status` shows."""
        self._send({"STATUS": text})

    def watchdog(self) -> None:
        """The loops really turn; to be said at least every half of watchdog_seconds."""
        self._send({"WATCHDOG": "1"})

    def reloading(self, status: str = "") -> None:
        """A reload has begun; ready() ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send({"RELOADING": "1", "MONOTONIC_USEC": str(now)} | _status(status))

    def stopping(self, status: str = "") -> None:
        """The daemon is on its way out."""
        self._send({"STOPPING": "1"} | _status(status))

    def extend(self, seconds: float) -> None:
        """The start or stop that is under way needs at least this much longer from now."""
        self._send({"EXTEND_TIMEOUT_USEC": str(max(1, round(seconds * 1_000_000)))})

    def close(self) -> None:
        """Leave the socket; a later message opens it again."""
        link, self._link = self._link, None
        if link is not None:
            link.socket.close()

    def _send(self, fields: dict[str, str]) -> None:
        if not self._wanted:
            return
        lines = [f"{key}={shown(value, STATUS_LIMIT)}" for key, value in fields.items()]
        # sdnotify writes Latin-1 and drops a message that has other letters: hand it UTF-8 bytes.
        message = "\n".join(lines).encode().decode("latin-1")
        problem = self._notify(message)
        if problem and not self._failing:
            log.warning("systemd can not be told anything: %s", problem)
        self._failing = bool(problem)

    def _notify(self, message: str) -> str:
        """Send, once more on a fresh socket if the manager has a new one; returns what failed."""
        problem = ""
        for _attempt in range(2):
            try:
                if self._link is None:
                    self._link = _connected()
                self._link.notify(message)
                return ""
            except TimeoutError:
                return "its socket is full"
            except OSError as error:
                self.close()
                problem = str(error)
        return problem


def _connected() -> SystemdNotifier:
    with warnings.catch_warnings():
        # Where nobody listens, sdnotify leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        link = SystemdNotifier(debug=True)
    link.socket.settimeout(SEND_SECONDS)
    return link


def _status(text: str) -> dict[str, str]:
    return {"STATUS": text} if text else {}


def watchdog_seconds() -> float | None:
    """How long systemd waits for a sign of life; None if it does not, or not for this process."""
    try:
        limit = int(os.environ.get("WATCHDOG_USEC", ""))
        meant = int(os.environ.get("WATCHDOG_PID", "") or os.getpid())
    except ValueError:
        return None
    return limit / 1_000_000 if limit > 0 and meant == os.getpid() else None


def child_environment() -> dict[str, str]:
    """The environment for a child: without the service manager's socket, watchdog and sockets."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_CHILDREN)
    }
