"""What every test gets: it fails on leaked threads and on leaked child processes."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from tests.fakes.house import Open


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """A test that leaves a thread or a child process behind has failed."""
    threads = set(threading.enumerate())
    children = set(psutil.Process().children())
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in left:
        thread.join(2.0)
    assert not [thread for thread in left if thread.is_alive()], "leaked threads"
    born = [child for child in psutil.Process().children() if child not in children]
    _gone, alive = psutil.wait_procs(born, timeout=2.0)
    assert not alive, "leaked child processes"


@pytest.fixture
def room(tmp_path: Path) -> bytes:
    """An empty folder, as bytes."""
    return os.fsencode(tmp_path)


@pytest.fixture
def open_house(tmp_path: Path) -> Iterator["Open"]:
    from tests.fakes.house import House  # the card's tests run without the daemon's packages

    houses: list[House] = []

    def make(**changes: Any) -> House:
        houses.append(House(tmp_path, **changes))
        return houses[-1].open()

    yield make
    for house in houses:
        if house.thread.is_alive():
            house.close()
