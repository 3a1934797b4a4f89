"""`penstock run`: the daemon itself, in the foreground as systemd wants it."""

import argparse
import logging
import signal
from types import FrameType

from daemon.config import find_config, make_folders, read_config
from daemon.lock import StateLock
from daemon.tell import journal

log = logging.getLogger("penstock")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `run` to the command line."""
    parser = commands.add_parser("run", help="start the daemon and stay")
    parser.add_argument(
        "--until-idle", action="store_true", help="leave once every file there is handled"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the config, take the lock, watch until told to stop."""
    path = find_config(args.config)
    settings = read_config(path)
    with StateLock.acquire(settings.daemon.state_dir):
        journal.setup(settings.daemon.log_level)
        for problem in make_folders(settings):
            log.warning("%s", problem)
        from daemon.service import Service  # what `config` and `status` need not load

        service = Service(settings, read_again=lambda: read_config(path))

        def asked(number: int, _frame: FrameType | None) -> None:
            service.reload() if number == signal.SIGHUP else service.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, asked)
        # A lease that somebody breaks would otherwise end the process (see intake/lease.py).
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        return service.run(until_idle=args.until_idle)
