"""What `doctor` finds, as plain values."""

from collections.abc import Iterable
from typing import Literal

import msgspec

Level = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at: how it is and, if it is not well, what to do."""

    area: str
    level: Level
    text: str
    hint: str = ""


def ok(area: str, text: str) -> Finding:
    """It is well."""
    return Finding(area=area, level="ok", text=text)


def warning(area: str, text: str, hint: str) -> Finding:
    """It works, but less well than it could."""
    return Finding(area=area, level="warning", text=text, hint=hint)


def problem(area: str, text: str, hint: str) -> Finding:
    """It does not work, or will not for long."""
    return Finding(area=area, level="problem", text=text, hint=hint)


def count(findings: Iterable[Finding], level: Level) -> int:
    """How many there are of a level."""
    return sum(1 for finding in findings if finding.level == level)
