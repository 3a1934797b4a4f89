"""`penstock config`: checks the config without starting anything, or shows what it comes to."""

import argparse
import os
import sys

from daemon.config import find_config, read_config, show
from pipeline.core.errors import ConfigError
from pipeline.core.text import shown


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `config check` and `config show`."""
    about = "check the config, or show the settings that come of it"
    parser = commands.add_parser("config", help=about, description=about)
    parser.add_argument(
        "action",
        choices=("check", "show"),
        help="check: say what is wrong; show: print every setting",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if the config is good, 78 if not; problems go to stderr, one a line."""
    try:
        path = find_config(args.config)
        settings = read_config(path)
    except ConfigError as error:
        print(error.reason, file=sys.stderr)
        if error.hint:
            print(f"({error.hint})", file=sys.stderr)
        return os.EX_CONFIG
    if args.action == "show":
        print(show(settings), end="")
        return os.EX_OK
    watches = len(settings.watch)
    print(f"{shown(path)}: good ({watches} {'watch' if watches == 1 else 'watches'})")
    return os.EX_OK
