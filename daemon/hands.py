"""Threads that touch the shares: one for each watch, so that a hung mount holds up only itself.

The loop hands a call over and gets its result back as an event; it never waits.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from pipeline.core.errors import PenstockError


class Did(msgspec.Struct, frozen=True, kw_only=True):
    """A call came back. The loop answers it with `then(result, error)`; one of them is None."""

    then: Callable[[Any, Exception | None], None]
    result: Any = None
    error: Exception | None = None


Call = Callable[[], Any]
Then = Callable[[Any, Exception | None], None]


class Hands:
    """Runs calls in order, one lane for each watch."""

    def __init__(self, post: Callable[[Did], None]) -> None:
        self._post = post
        self._lanes: dict[str, queue.SimpleQueue[tuple[Call, Then] | None]] = {}
        self._threads: list[threading.Thread] = []
        self._busy: dict[str, int] = {}

    def do(self, lane: str, call: Call, then: Then) -> None:
        """Run `call` on the lane's thread; `then` runs later, on the loop."""
        if lane not in self._lanes:
            self._open(lane)
        self._busy[lane] = self._busy.get(lane, 0) + 1
        self._lanes[lane].put((call, then))

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting to be answered."""
        return not any(self._busy.values())

    def waiting(self, lane: str) -> int:
        """Calls of a lane that have not come back."""
        return self._busy.get(lane, 0)

    def close(self, timeout: float) -> None:
        """Let what is queued finish, as far as it does within the timeout."""
        for lane in self._lanes.values():
            lane.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def _open(self, lane: str) -> None:
        self._lanes[lane] = queue.SimpleQueue()
        thread = threading.Thread(
            target=self._work, args=(lane, self._lanes[lane]), name=f"hands-{lane}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(self, lane: str, calls: "queue.SimpleQueue[tuple[Call, Then] | None]") -> None:
        while item := calls.get():
            call, then = item
            done = self._answer(lane, then)
            try:
                self._post(Did(then=done, result=call()))
            except (OSError, PenstockError, ValueError) as error:
                self._post(Did(then=done, error=error))
            except Exception as error:  # noqa: BLE001  # a bug in a step must reach the loop, not end the lane
                self._post(Did(then=done, error=RuntimeError(f"{type(error).__name__}: {error}")))

    def _answer(self, lane: str, then: Then) -> Then:
        def answer(result: Any, error: Exception | None) -> None:
            self._busy[lane] -= 1
            then(result, error)

        return answer
