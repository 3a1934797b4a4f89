"""`penstock demo`: a real daemon on a new folder, a spoken sample dropped in, what comes out."""

import argparse
import os
import shutil
import signal
import time
from types import FrameType

from daemon.cli.demo_daemon import DemoDaemon, DemoFailed
from daemon.cli.demo_sample import make_sample
from daemon.cli.demo_told import tell_results
from daemon.cli.progress import Progress, progress
from daemon.config import find_config, read_config
from daemon.show import toml_value
from daemon.tell.status import Status
from pipeline.core.errors import ConfigError, PenstockError
from pipeline.core.files import make_folders
from pipeline.core.text import shown

DEADLINE_S = 300.0
FETCH_S = 3600.0  # with weights to be fetched
LOOK_S = 0.2
CONFIG = """\
# Made by `penstock demo`. Try: penstock status --config {path}
[daemon]
status_seconds = 0.3
stop_seconds = 2.0

[models]
dir = {models}
offline = {offline}

[[watch]]
name = "talks"
path = "inbox/talks"
recipe = "transcribe"
outbox = "outbox/talks"
archive = "archive/talks"
failed = "failed/talks"
settle_seconds = 1.0

[[watch]]
name = "music"
path = "inbox/music"
recipe = "visualize"
outbox = "outbox/music"
archive = "archive/music"
failed = "failed/music"
settle_seconds = 1.0
"""
WATCHES = ("talks", "music")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `demo`."""
    parser = commands.add_parser(
        "demo",
        help="see it work: drops a spoken sample into two watched folders",
        description="Makes a folder with a config, starts the daemon on it, drops a spoken sample "
        "into two watches (a transcript, a video) and shows what comes out. Nothing outside of "
        "that folder is touched.",
    )
    parser.add_argument(
        "--keep", metavar="DIR", help="the new folder (default: ./demo/ and the time)"
    )
    parser.add_argument(
        "--fetch", action="store_true",
        help="fetch the weights of Whisper first if they are not here (about 500 MB, once)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if both results came, 1 if not, 130 if interrupted."""
    folder = _new_folder(args.keep)
    sample, how = make_sample(folder)
    config = _write_config(folder, args)
    print(f"a sample, {how}: {shown(sample)}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with DemoDaemon(config, folder) as daemon:
            print(f"the daemon runs as pid {daemon.pid}; its log is {shown(daemon.log)}")
            daemon.wait_until_ready()
            for watch in WATCHES:
                print(f"dropped into {shown(_drop(sample, folder, watch))}")
            with progress(len(WATCHES)) as show:
                _follow(daemon, show, FETCH_S if args.fetch else DEADLINE_S)
        return tell_results(config, folder)
    except DemoFailed as error:
        print(f"\nthe demo did not come to its end: {error}")
        print(f"everything is left in {shown(folder)}; the daemon's last words:")
        for line in error.last_words:
            print(f"  {line}")
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that the daemon is stopped on the way out


def _new_folder(keep: str | None) -> bytes:
    name = keep if keep is not None else os.path.join("demo", time.strftime("%Y-%m-%d_%H%M%S"))
    folder = os.path.abspath(os.fsencode(name))
    try:
        make_folders(folder)
        taken = os.listdir(folder)
    except OSError as error:
        raise PenstockError(
            f"{shown(folder)} can not be made: {error.strerror}", "choose another with --keep"
        ) from error
    if taken:
        raise PenstockError(f"{shown(folder)} is not empty", "name a new folder with --keep")
    return folder


def _write_config(folder: bytes, args: argparse.Namespace) -> str:
    """The demo's config; with the weights of the config that is in force here, if one is."""
    try:
        models = read_config(find_config(args.config)).models.dir
    except ConfigError:
        if args.config is not None:
            raise
        cache = os.environb.get(b"XDG_CACHE_HOME") or os.path.expanduser(b"~/.cache")
        models = os.path.join(os.path.abspath(cache), b"whisper")
    path = os.path.join(folder, b"config.toml")
    text = CONFIG.format(
        path=shown(path), models=toml_value(models), offline=toml_value(not args.fetch)
    )
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    return os.fsdecode(path)


def _drop(sample: bytes, folder: bytes, watch: str) -> bytes:
    """As a careful program drops a file: written elsewhere, then renamed into the watch."""
    target = os.path.join(folder, b"inbox", watch.encode(), os.path.basename(sample))
    copy = os.path.join(folder, b"copy-for-" + watch.encode())
    shutil.copyfile(sample, copy)
    os.rename(copy, target)
    return target


def _follow(daemon: DemoDaemon, show: Progress, seconds: float) -> None:
    """Show how far both jobs are until they have ended; DemoFailed after so many seconds."""
    end = time.monotonic() + seconds
    told: set[int] = set()
    while len(told) < len(WATCHES):
        status = daemon.status()
        if status is not None:
            _show(status, show, told)
        if time.monotonic() > end:
            raise daemon.failure(f"no result came within {seconds:.0f} s")
        daemon.check()
        time.sleep(LOOK_S)


def _show(status: Status, show: Progress, told: set[int]) -> None:
    show.running(status.running)
    show.note("; ".join(status.problems))
    for job in reversed(status.recent):
        if job.job not in told:
            told.add(job.job)
            good = job.state == "done"
            name = f"{job.file} ({job.watch})"
            show.ended(name, good=good, told=job.result if good else job.reason or job.state)
