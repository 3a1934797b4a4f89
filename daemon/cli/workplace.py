"""Where `process` keeps its ledger and scratch while it runs: a folder that is gone afterwards."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from daemon.intake.mounts import is_network
from daemon.lock import StateLock
from pipeline.core.errors import PenstockError

SHELF = b".penstock"  # where results are staged too: hidden, and on the results' disk
NAME = b"process-%d"
LOCAL = "/var/tmp"  # noqa: S108  # for results on a share; the folder there comes from mkdtemp


@contextmanager
def workplace(output: bytes) -> Iterator[bytes]:
    """A locked folder for ledger and scratch on the results' disk; removed whatever happens.

    Where that is a network share, which a ledger must not lie on, a local temporary folder.
    """
    shelf = os.path.join(output, SHELF)
    if is_network(output):
        place = os.fsencode(tempfile.mkdtemp(prefix="penstock-", dir=LOCAL))
    else:
        sweep(shelf)
        place = os.path.join(shelf, NAME % os.getpid())
    try:
        with StateLock.acquire(place):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # another one is at work there
            os.rmdir(shelf)


def sweep(shelf: bytes) -> None:
    """Remove the workplaces of calls that were killed: no such process, and nobody has the lock."""
    try:
        names = [name for name in os.listdir(shelf) if name.startswith(NAME[:-2])]
    except OSError:
        return
    for name in names:
        number = name.rpartition(b"-")[2]
        # A process that has just made its folder has not locked it yet.
        if not number.isdigit() or os.path.exists(b"/proc/" + number):
            continue
        place = os.path.join(shelf, name)
        with suppress(PenstockError), StateLock.acquire(place):
            shutil.rmtree(place, ignore_errors=True)
