"""Where `process` keeps its ledger and scratch while it runs: a folder that is gone afterwards."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from daemon.intake.mounts import is_network
from daemon.lock import StateLock
from daemon.publish.janitor import sweep_staging
from daemon.publish.steps import SHELF
from daemon.queue.ledger import Ledger
from pipeline.core.errors import PenstockError

NAME = b"process-%d"  # on the shelf where results are staged too
NOBODY = "-"  # no ledger has this name
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
        sweep(output)
        place = os.path.join(shelf, NAME % os.getpid())
    try:
        with StateLock.acquire(place):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # another one is at work there
            os.rmdir(shelf)


def sweep(output: bytes) -> None:
    """Remove what calls that were killed left: no such process, and nobody has the lock."""
    shelf = os.path.join(output, SHELF)
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
            sweep_staging(output, _uid_of(place), ())
            shutil.rmtree(place, ignore_errors=True)


def _uid_of(place: bytes) -> str:
    """Whose the staged leftovers are; NOBODY if the call was killed before it had a ledger."""
    try:
        ledger = Ledger.open(os.path.join(place, b"ledger.db"), time.time())
    except PenstockError:
        return NOBODY
    ledger.close()
    return ledger.uid
