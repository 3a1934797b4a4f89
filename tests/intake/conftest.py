"""Fixtures for watchers at work: started and ended, and a real mount to lose."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daemon.intake import watch
from daemon.intake.bell import Bell
from tests.intake.houses import PATIENCE, House, mount, umount


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., House]]:
    """Starts watchers, which never rest between scans, and ends them with their one bell."""
    monkeypatch.setattr(watch, "LEAST_GAP", 0.01)
    monkeypatch.setattr(watch, "REST_FACTOR", 0.0)
    houses: list[House] = []
    bell = Bell()

    def begin(root: bytes, *, events: bool = False, pin: str = "", **more: Any) -> House:
        houses.append(House(root, bell if events else None, pin, **more))
        return houses[-1]

    yield begin
    ended = [house.watcher.stop(PATIENCE) for house in houses]
    bell.stop()
    assert all(ended)


@pytest.fixture
def share(room: bytes) -> Iterator[bytes]:
    """A real tmpfs «nas:one» below the room, unmounted again whatever happens."""
    point = room + b"/share"
    os.mkdir(point)
    if not mount(point, "nas:one"):
        pytest.skip("mounting is not allowed here")
    try:
        yield point
    finally:
        while os.path.ismount(point):
            umount(point)
