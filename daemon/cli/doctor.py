"""`penstock doctor`: looks at what has to be right, and says what to do where it is not."""

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from daemon.cli import doctor_engines, doctor_folders, doctor_host
from daemon.cli.findings import Finding, count, ok, problem
from daemon.config import find_config, read_config
from daemon.settings import Settings
from pipeline.core.errors import ConfigError
from pipeline.core.text import shown

if TYPE_CHECKING:
    from rich.text import Text

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="check that everything is there and works",
        description="Checks this machine and the config; changes nothing. Run it as the user that "
        "the service runs as. Exit status: 0 without problems (warnings may be), 1 with some.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if there is no problem, else 1."""
    findings: list[Finding] = []
    for finding in examine(args.config):
        findings.append(finding)
        if not args.json:
            _print(finding)
    problems, warnings = count(findings, "problem"), count(findings, "warning")
    if args.json:
        document = {"problems": problems, "warnings": warnings, "findings": findings}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        print(f"\nproblems: {problems}, warnings: {warnings}")
    return 1 if problems else 0


def examine(config: str | None) -> Iterator[Finding]:
    """Every check in turn, as it ends; those that need a config only if there is a good one."""
    yield from doctor_host.programs()
    settings, finding = _settings(config)
    yield finding
    yield from doctor_host.clock(settings)
    if settings is not None:
        yield from doctor_folders.state(settings)
        yield from doctor_folders.watches(settings)
        yield from doctor_folders.events(settings)
        yield from doctor_folders.disks(settings)
    yield from doctor_host.leases(settings)
    yield from doctor_engines.card(settings)
    yield from doctor_engines.engines(settings)
    yield from doctor_engines.encoder(settings)


def _settings(config: str | None) -> tuple[Settings | None, Finding]:
    try:
        path = find_config(config)
        settings = read_config(path)
    except ConfigError as error:
        hint = error.hint or "correct it; `penstock config check` says when it is good"
        return None, problem("config", error.reason, hint)
    names = ", ".join(f"{watch.name} ({watch.recipe})" for watch in settings.watch)
    return settings, ok("config", f"{shown(os.path.abspath(path))}: good; watches: {names}")


def _print(finding: Finding) -> None:
    from daemon.cli.common import console

    console().print(_line(finding), soft_wrap=True)
    sys.stdout.flush()


def _line(finding: Finding) -> "Text":
    from rich.text import Text

    mark, style = MARKS[finding.level]
    text = Text()
    text.append(f"{mark} ", style=style)
    text.append(f"{shown(finding.area, 10):<10} ", style="bold")
    if finding.level != "ok":
        text.append(f"{finding.level}: ", style=style)
    text.append(finding.text)
    if finding.hint:
        text.append(f"\n             → {finding.hint}")
    return text
