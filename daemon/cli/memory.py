"""`penstock memory`: what is known of memory; `classify` tells what error texts ask for."""

import argparse
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from daemon.cli.memory_show import show
from pipeline.core.faults import find

LINE_LIMIT = 64 * 1024  # bytes kept of the beginning of a line, and as many of its end


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `memory` with its actions."""
    about = "the card and the host, tiers, plan, shelf and what was learned of memory"
    parser = commands.add_parser("memory", help=about, description=about)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=show)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    _add_classify(actions)


def _add_classify(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = (
        "read error texts from standard input, one a line, and answer each at once with one word: "
        "recover, replace_worker, not_memory or device_lost"
    )
    parser = actions.add_parser("classify", help="say what error texts ask for", description=about)
    parser.add_argument(
        "--explain", action="store_true", help="also the library that speaks, and why"
    )
    # Every command takes it; here nothing depends on it.
    parser.add_argument("--config", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=classify)


def classify(args: argparse.Namespace) -> int:
    """One answer for each line of standard input; exit status 0."""
    for line in _lines(sys.stdin.buffer):
        found = find(line.decode(errors="replace"))
        more = f"\t{found.library}\t{found.reason}" if args.explain else ""
        print(f"{found.kind}{more}", flush=True)
    return os.EX_OK


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream as they come; of a line without end only its ends are kept."""
    while head := stream.readline(LINE_LIMIT):
        tail, chunk = b"", head
        while not chunk.endswith(b"\n") and (chunk := stream.readline(LINE_LIMIT)):
            tail = (tail + chunk)[-LINE_LIMIT:]
        yield head + tail
