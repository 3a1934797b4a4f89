"""The breaker: a lost card means CPU only, a probe every five minutes, and a loud status."""

import logging
import subprocess
import sys
from typing import Any

from daemon.desk import Desk
from daemon.tell.notify import child_environment

log = logging.getLogger("penstock.worker")

PROBE_EVERY_S = 300.0
PROBE_LIMIT_S = 120.0
LANE = "probe"  # a hand of its own: a probe may hang in the driver


class Breaker:
    """Whether the card may be used. Called on the loop only."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._probe_at: float | None = None  # monotonic; None while the card may be used
        self._asking = False
        self._back = False

    @property
    def open(self) -> bool:
        """True while the card is taken for lost."""
        return self._probe_at is not None

    def trip(self, reason: str) -> None:
        """The card is lost: no order uses it until a probe has succeeded."""
        self._probe_at = self._desk.clock() + PROBE_EVERY_S
        self._desk.problems["card"] = f"the card is lost, all work goes on without it: {reason}"
        log.error("%s", self._desk.problems["card"])
        self._desk.tell("device_lost", reason=reason)

    def check(self) -> bool:
        """Probe when it is time; True once, when the card has come back."""
        due = self._probe_at is not None and self._desk.clock() >= self._probe_at
        if due and not self._asking:
            self._asking = True
            self._desk.hands.do(LANE, self._probe, self._answered)
        back, self._back = self._back, False
        return back

    def _probe(self) -> str:
        """Use the card for a moment in a short-lived child; empty if that worked."""
        python = self._desk.settings.worker.python or sys.executable
        try:
            done = subprocess.run(
                [python, "-m", "pipeline.gpu.probe"], capture_output=True, text=True,
                stdin=subprocess.DEVNULL, timeout=PROBE_LIMIT_S, check=False,
                env=child_environment(),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return "" if done.returncode == 0 else (done.stdout or done.stderr).strip()[-200:]

    def _answered(self, reason: Any, error: Exception | None) -> None:
        self._asking = False
        if error is None and not reason:
            self._probe_at, self._back = None, True
            self._desk.problems.pop("card", None)
            log.warning("the card works again")
            self._desk.tell("device_back")
            return
        log.warning("the card is still lost: %s", error or reason)
        self._probe_at = self._desk.clock() + PROBE_EVERY_S
