"""The `penstock` command: finds the sub-command, turns errors into a sentence and a status."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from pipeline.core.errors import BusyError, ConfigError, LedgerError, PenstockError
from pipeline.core.version import __version__

EX_OK, EX_FAILED, EX_USAGE, EX_LEDGER, EX_BUSY, EX_CONFIG = 0, 1, 64, 74, 75, 78
# Each command and the module that brings it; a command loads no other's.
COMMANDS = {
    "run": "run",
    "process": "process",
    "status": "status",
    "jobs": "jobs",
    "why": "why",
    "pause": "control",
    "resume": "control",
    "config": "config",
    "memory": "memory",
    "doctor": "doctor",
    "demo": "demo",
}


class _Parser(argparse.ArgumentParser):
    """argparse with the exit status of sysexits for a wrong command line."""

    def error(self, message: str) -> "None":  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def build_parser(wanted: str = "") -> argparse.ArgumentParser:
    """The command line; each command's module adds its own part. `wanted`: only that command's."""
    parser = _Parser(
        prog="penstock",
        description="Watches folders and turns what is dropped there into what they promise.",
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = [COMMANDS[wanted]] if wanted in COMMANDS else dict.fromkeys(COMMANDS.values())
    for name in modules:
        importlib.import_module(f"daemon.cli.{name}").add_parser(commands)
    for command in commands.choices.values():
        if not any("--config" in action.option_strings for action in command._actions):
            command.add_argument(
                "--config", metavar="FILE", help="config file (default: ./config.toml, then /etc)"
            )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows its code
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser(words[0] if words else "").parse_args(words)
    try:
        status: int = args.run(args)
        sys.stdout.flush()  # here a reader that has left is no error yet
        return status
    except ConfigError as error:
        return _say(error, EX_CONFIG)
    except BusyError as error:
        return _say(error, EX_BUSY)
    except LedgerError as error:
        return _say(error, EX_LEDGER)
    except PenstockError as error:
        return _say(error, EX_FAILED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing is left to be flushed to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_OK


def _say(error: PenstockError, status: int) -> int:
    print(f"penstock: {error.reason}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
