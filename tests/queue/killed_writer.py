"""A child process of the tests: writes to a ledger without end and says each job that is on disk.

Run as `python -m tests.queue.killed_writer PATH SEED`; prints `ID STATE` once a call returned.
"""

import random
import sys

from daemon.queue.ledger import Ledger
from daemon.values import MOVES, OPEN, Job
from tests.queue.util import NOW, new


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(path: str, seed: str) -> None:
    choose = random.Random(seed)
    ledger = Ledger.open(path.encode(), NOW)
    jobs: list[Job] = ledger.open_jobs()
    say("up")
    number = 0
    while True:
        if len(jobs) < 5:
            made = ledger.admit(
                [new(b"%s-%d" % (seed.encode(), number + n)) for n in range(3)], NOW
            )
            number += 3
        else:
            job = jobs.pop(choose.randrange(len(jobs)))
            to = choose.choice(sorted(MOVES[job.state]))
            made = [ledger.move(job, to, NOW, attempt=job.attempt + 1, target=b"%d" % job.id)]
        for job in made:
            say(job.id, job.state.value, job.attempt)
        jobs += [job for job in made if job.state in OPEN]


if __name__ == "__main__":
    main(*sys.argv[1:])
