"""Progress while files are worked on: bars on a terminal, a line for each step elsewhere."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from daemon.tell.status import RunningJob
from pipeline.core.text import human_seconds, shown

if TYPE_CHECKING:
    from rich.progress import TaskID

NAME_CELLS = 36
BAR_CELLS = 24


class Progress(Protocol):
    """Where a command says how far its files are. Names come as shown() gives them."""

    def running(self, jobs: Sequence[RunningJob]) -> None:
        """What is being worked on now, as of one moment."""

    def ended(self, name: str, *, good: bool, told: str) -> None:
        """A file reached its end; `told` is where its result is, or why there is none."""

    def note(self, text: str) -> None:
        """Something worth a line of its own, e.g. why nothing goes on; said once in a row."""

    def __enter__(self) -> Self:
        """Start to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""


def progress(total: int, *, quiet: bool = False) -> Progress:
    """Bars if stdout is a terminal, lines if not, nothing if `quiet`."""
    if quiet:
        return Silence()
    return Bars(total) if sys.stdout.isatty() else Lines()


class Silence:
    """Shows nothing: stdout belongs to a document. Only what holds everything up goes to stderr."""

    def __init__(self) -> None:
        self._noted = ""

    def running(self, jobs: Sequence[RunningJob]) -> None:
        """Not shown."""

    def ended(self, name: str, *, good: bool, told: str) -> None:
        """Not shown."""

    def note(self, text: str) -> None:
        """Said once in a row."""
        if text and text != self._noted:
            self._say(text)
        self._noted = text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Lines(Silence):
    """One line for each thing that happens."""

    def __init__(self) -> None:
        super().__init__()
        self._stages: dict[int, str] = {}

    def running(self, jobs: Sequence[RunningJob]) -> None:
        """Say which job started, and each stage that it enters."""
        for job in jobs:
            if job.job not in self._stages:
                self._stages[job.job] = ""
                self._say(f"started {job.file}")
            if job.stage and self._stages[job.job] != job.stage:
                self._stages[job.job] = job.stage
                self._say(f"{job.file}: {job.stage}")

    def ended(self, name: str, *, good: bool, told: str) -> None:
        """Say where the result is, or why there is none."""
        self._say(f"done {name} → {told}" if good else f"failed {name}: {told}")

    def _say(self, line: str) -> None:
        print(line, flush=True)


class Bars:
    """One bar for each running job, and one for all files together."""

    def __init__(self, total: int) -> None:
        from rich import progress as rich

        from daemon.cli.common import console

        self._bars = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(BAR_CELLS, complete_style="cyan", finished_style="green"),
            rich.TextColumn("{task.percentage:>3.0f} %", markup=False),
            rich.TextColumn("{task.fields[said]}", markup=False),
            console=console(),
            transient=True,
        )
        self._tasks: dict[int, TaskID] = {}
        self._total = total
        self._done = self._failed = 0
        self._noted = ""
        self._all = self._bars.add_task("all files", total=total, said=self._said())

    def running(self, jobs: Sequence[RunningJob]) -> None:
        """Move the bars; a job that is no longer there loses its own."""
        now = {job.job: job for job in jobs}
        for number in [number for number in self._tasks if number not in now]:
            self._bars.remove_task(self._tasks.pop(number))
        for number, job in now.items():
            if number not in self._tasks:
                name = shown(job.file, NAME_CELLS)
                self._tasks[number] = self._bars.add_task(name, total=1.0, said="")
            left = "" if job.eta_seconds is None else f", {human_seconds(job.eta_seconds)} to go"
            self._bars.update(
                self._tasks[number],
                completed=job.overall or 0.0,
                said=f"{job.stage or 'starting'}{left}",
            )
        inside = sum(job.overall or 0.0 for job in jobs)
        self._bars.update(self._all, completed=self._done + self._failed + inside)

    def ended(self, name: str, *, good: bool, told: str) -> None:
        """A line above the bars, and a step of the total."""
        self._done += good
        self._failed += not good
        self._bars.update(self._all, completed=self._done + self._failed, said=self._said())
        self._line(
            f"✓ {name} → {told}" if good else f"✗ {name}: {told}", "green" if good else "red"
        )

    def note(self, text: str) -> None:
        """A line above the bars, said once in a row."""
        if text and text != self._noted:
            self._line(text, "yellow")
        self._noted = text

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def _said(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done + self._failed} of {self._total}{failed}"

    def _line(self, text: str, style: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text(text, style=style))
