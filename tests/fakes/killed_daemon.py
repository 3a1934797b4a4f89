"""A real daemon that dies by SIGKILL at the n-th effect of its walk: `CONFIG N`; 0 never.

Effects are every write of the ledger and every order (before and after), and every change that
the process makes to the file system (before), as Python's audit hooks tell it. The status file and
the metrics log are left out: they say what happens, nothing depends on them. Prints how many
effects it passed.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from daemon.config import make_folders, read_config
from daemon.dispatch.worker_link import WorkerLink
from daemon.lock import StateLock
from daemon.queue.ledger import Ledger
from daemon.service import Service

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}
LEDGER_WRITES = {"admit", "move", "update", "remember", "note", "forget_stay"}
NOISE = (b"status.json", b"file_monitor", b"/lock", b"ledger.db", b"/dev/", b"control.sock")


class Counter:
    """Counts effects and ends the process at the chosen one."""

    def __init__(self, deadly: int) -> None:
        self.count = 0
        self.deadly = deadly
        self.armed = False
        self._lock = threading.Lock()

    def effect(self, what: str) -> None:
        if not self.armed:
            return
        with self._lock:
            self.count += 1
            if self.count == self.deadly:
                os.write(2, f"killed at {self.count}: {what}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = args
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY))
            if isinstance(path, int) or not writes:
                return
        elif event not in CHANGES:
            return
        path = args[0]
        name = path if isinstance(path, bytes) else os.fsencode(str(path))
        if not any(noise in name for noise in NOISE):
            self.effect(f"{event} {name!r}")


class Deadly:
    """Stands before an object; the named methods count as effects, before and after."""

    def __init__(self, inner: object, names: set[str], counter: Counter) -> None:
        self._inner = inner
        self._names = names
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._counted(name, value) if name in self._names else value

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **changes: Any) -> Any:
            self._counter.effect(f"before {name}")
            result = call(*args, **changes)
            self._counter.effect(f"after {name}")
            return result

        return counted


def main() -> None:
    config, deadly = sys.argv[1], int(sys.argv[2])
    settings = read_config(config)
    counter = Counter(deadly)
    with StateLock.acquire(settings.daemon.state_dir):
        make_folders(settings)
        sys.addaudithook(counter.audit)
        path = os.path.join(settings.daemon.state_dir, b"ledger.db")
        ledger: Any = Deadly(Ledger.open(path, 0.0), LEDGER_WRITES, counter)
        service = Service(settings, ledger=ledger)
        link: Any = WorkerLink(settings.worker, service.post)
        service.desk.link = Deadly(link, {"submit", "start"}, counter)
        counter.armed = True
        status = service.run(until_idle=True)
        counter.armed = False
    print(counter.count)
    sys.exit(status)


if __name__ == "__main__":
    main()
