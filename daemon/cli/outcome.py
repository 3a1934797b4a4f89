"""How `process` tells what became of each file: a table for people, a document for programs."""

import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from daemon.tell.harmless import harmless
from daemon.values import Job, State
from pipeline.core.contract import StageReport
from pipeline.core.text import human_bytes, human_seconds, shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SCHEMA = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file."""

    path: bytes  # as it was named
    state: Literal["done", "failed", "stopped"]
    result: bytes = b""  # the result folder
    reason: str = ""
    hint: str = ""
    bytes_made: int = 0
    reports: list[StageReport] = []

    @property
    def seconds(self) -> float:
        """How long its stages took; what an earlier attempt did counts as well."""
        return sum(report.seconds for report in self.reports)

    @property
    def why(self) -> str:
        """Reason and hint as one line."""
        return f"{self.reason} ({self.hint})" if self.hint else self.reason


def fallbacks_of(reports: list[StageReport]) -> list[str]:
    """Which stages did not run on their main engine, and why; a line for each."""
    return [
        f"FALLBACK {report.stage} on {shown(report.engine, 80)}, "
        f"because {shown(report.fallback, 1000)}"
        for report in reports
        if report.fallback
    ]


def outcome_of(job: Job, path: bytes, output: bytes) -> Outcome:
    """An ended job as an outcome."""
    if job.state is State.DONE:
        return Outcome(
            path=path, state="done", result=os.path.join(output, job.target),
            bytes_made=sum(out.size for out in job.outputs), reports=job.reports,
        )  # fmt: skip
    reason = job.reason or job.state.value
    return Outcome(path=path, state="failed", reason=reason, hint=job.hint, reports=job.reports)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All outcomes of one call."""

    recipe: str
    output: bytes
    seconds: float  # from start to end
    outcomes: list[Outcome]
    interrupted: bool = False

    def count(self, state: str) -> int:
        """How many ended so."""
        return sum(1 for outcome in self.outcomes if outcome.state == state)

    def as_json(self) -> str:
        """The document for programs; names escaped as everywhere."""
        facts = {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "output": self.output,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "done": self.count("done"),
            "failed": self.count("failed"),
            "stopped": self.count("stopped"),
            "files": [_facts(outcome) for outcome in self.outcomes],
        }
        return msgspec.json.format(msgspec.json.encode(harmless(facts)), indent=2).decode()

    def table(self) -> "RenderableType":
        """The table for people, with a last line of totals."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("FILE", overflow="fold", max_width=48)
        table.add_column("RESULT", overflow="fold")
        table.add_column("TOOK", no_wrap=True, justify="right")
        table.add_column("ENGINES", overflow="fold")
        for outcome in self.outcomes:
            table.add_row(
                Text(shown(outcome.path)),
                _result(outcome),
                human_seconds(outcome.seconds) if outcome.reports else "",
                _engines(outcome.reports),
            )
        told = [line for outcome in self.outcomes for line in fallbacks_of(outcome.reports)]
        fallbacks = [Text(line, style="yellow") for line in dict.fromkeys(told)]
        return Group(Text(""), table, Text(""), *fallbacks, self._totals())

    def _totals(self) -> "Text":
        from rich.text import Text

        made = sum(outcome.bytes_made for outcome in self.outcomes)
        line = Text(f"{self.count('done')} done", style="green")
        if failed := self.count("failed"):
            line.append(f", {failed} failed", style="red")
        if stopped := self.count("stopped"):
            line.append(f", {stopped} not finished", style="yellow")
        line.append(f" in {human_seconds(self.seconds)}; {human_bytes(made)} in ", style="default")
        line.append(shown(self.output), style="default")
        return line


def _result(outcome: Outcome) -> "Text":
    from rich.text import Text

    if outcome.state == "done":
        return Text(shown(outcome.result))
    return Text(
        f"{outcome.state}: {shown(outcome.why, 1000)}",
        style="red" if outcome.state == "failed" else "yellow",
    )


def _engines(reports: list[StageReport]) -> "Text":
    from rich.text import Text

    text = Text()
    for report in reports:
        text.append(f"{', ' if text else ''}{report.stage}: {shown(report.engine, 80)}")
        text.append(f" on {shown(report.device, 40)}" if report.device != "cpu" else "")
        if report.fallback:
            text.append(" FALLBACK", style="yellow")
    return text


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {
        "file": outcome.path,
        "state": outcome.state,
        "result": outcome.result,
        "reason": outcome.reason,
        "hint": outcome.hint,
        "seconds": round(outcome.seconds, 3),
        "bytes": outcome.bytes_made,
        "stages": outcome.reports,
    }
