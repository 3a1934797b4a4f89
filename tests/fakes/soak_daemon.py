"""A real daemon over a fake worker: `CONFIG`; runs until nothing is left, then says its memory.

Prints one line of resident bytes for each thousand files that ended.
"""

import os
import sys

import psutil

from daemon.config import make_folders, read_config
from daemon.dispatch.worker_link import WorkerLink
from daemon.lock import StateLock
from daemon.service import Service
from daemon.tell.status import Status

FAKE = (sys.executable, "-m", "tests.fakes.worker")
EVERY = 1000  # files between two readings


def main() -> None:
    settings = read_config(sys.argv[1])
    process = psutil.Process()
    told = 0

    def look(status: Status) -> None:
        nonlocal told
        ended = status.counts["done"] + status.counts["failed"]
        if ended // EVERY > told:
            told = ended // EVERY
            print(ended, process.memory_info().rss, status.worker.restarts, flush=True)

    with StateLock.acquire(settings.daemon.state_dir):
        make_folders(settings)
        service = Service(settings, watcher_of_progress=look)
        service.desk.link = WorkerLink(settings.worker, service.post, command=FAKE)
        status = service.run(until_idle=True)
        print("restarts", service.crew.restarts, flush=True)
    os._exit(status)


if __name__ == "__main__":
    main()
