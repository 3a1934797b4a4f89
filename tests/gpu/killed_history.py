"""A child process of the tests: records observations without end and says each that is on disk.

Run as `python -m tests.gpu.killed_history PATH`.
"""

import sys

from pipeline.gpu.history import History
from tests.gpu.test_history import KEY, run


def main(path: str) -> None:
    history = History.open(path.encode())
    number = 0
    while True:
        number += 1
        if history.record(KEY, run(number, oom=True)):
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
