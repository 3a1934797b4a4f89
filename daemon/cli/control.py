"""`penstock pause` and `penstock resume`: whether the daemon starts further jobs."""

import argparse

from daemon.cli.common import ask, settings_of


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `pause` and `resume`."""
    for name, about in (
        ("pause", "start no further job until `resume`; running jobs go on to their end"),
        ("resume", "start jobs again after `pause`"),
    ):
        parser = commands.add_parser(name, help=about, description=f"{about}; survives a restart")
        parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if the daemon did it, 1 if it did not or none is running."""
    return ask(settings_of(args), args.command)
