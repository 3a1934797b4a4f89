"""`penstock process`: the same service over a list of files, until every one of them is handled."""

import argparse
import os
import time

import msgspec

from daemon.cli.batch import Batch
from daemon.cli.given import Given, sort_out
from daemon.cli.options import WrongOption, parse_options
from daemon.cli.outcome import Outcome, Summary
from daemon.cli.progress import progress
from daemon.cli.workplace import workplace
from daemon.config import read_config
from daemon.settings import DaemonSettings, QueueSettings, Settings, WatchSettings
from pipeline.core.errors import ConfigError
from pipeline.core.files import make_folders
from pipeline.core.recipes import RECIPES, recipe_named
from pipeline.core.text import shown

FOLDERS_LIMIT = 200  # each watched folder costs two threads
STOP_S = 1.0  # a person who pressed Ctrl-C does not want to wait for a running job
EX_INTERRUPTED = 130


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `process`."""
    parser = commands.add_parser(
        "process",
        help="turn the given files into a recipe's results, without a daemon",
        description="Runs a recipe on files, or on all files of folders; the originals stay. "
        "Exit status: 0 all done, 1 some failed, 130 interrupted.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, or a folder of files")
    parser.add_argument("--recipe", required=True, choices=list(RECIPES), help=_recipes())
    parser.add_argument("--output", required=True, metavar="DIR", help="where results go")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the recipe"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: as configured")
    parser.add_argument("--lanes", type=int, choices=range(1, 17), metavar="N",
                        help="files at once, 1 to 16")  # fmt: skip
    parser.add_argument("--log", metavar="DIR", help="keep file_monitor.jsonl there")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    parser.add_argument(
        "--config", metavar="FILE",
        help="take recipe options, [models], [worker] and [gpu] from it (default: ./config.toml)",
    )  # fmt: skip
    parser.set_defaults(run=run, usage_error=parser.error)


def _recipes() -> str:
    return "; ".join(f"{recipe.name}: {recipe.about}" for recipe in RECIPES.values())


def run(args: argparse.Namespace) -> int:
    """Exit status 0 if every file is done, 1 if any failed, 130 if it was interrupted."""
    begun = time.monotonic()
    recipe = recipe_named(args.recipe)
    base = _base(args.config)
    try:
        options = parse_options(args.option, recipe, base.recipes.get(recipe.name, {}))
    except WrongOption as error:
        args.usage_error(str(error))
    output = os.path.realpath(os.fsencode(args.output))
    given = sort_out(map(os.fsencode, args.files), recipe)
    _check_folders(args, given, output)
    outcomes = [
        Outcome(path=each.path, state="failed", reason=each.reason) for each in given.refused
    ]
    interrupted = False
    _make_output(output)
    with progress(len(outcomes) + given.count, quiet=args.json) as show:
        for outcome in outcomes:
            show.ended(shown(outcome.path), good=False, told=outcome.why)
        if given.count:
            with workplace(output) as state:
                settings = _settings(args, base, given, options, output, state)
                batch = Batch(settings, given, show)
                interrupted = batch.run()
                outcomes += batch.all_outcomes(interrupted=interrupted)
    summary = Summary(
        recipe=recipe.name, output=output, seconds=time.monotonic() - begun,
        outcomes=outcomes, interrupted=interrupted,
    )  # fmt: skip
    _tell(summary, as_json=args.json)
    if interrupted:
        return EX_INTERRUPTED
    return 0 if summary.count("done") == len(outcomes) else 1


def _tell(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print(summary.as_json())
        return
    from daemon.cli.common import console

    console().print(summary.table())


def _base(config: str | None) -> Settings:
    """The settings of a config that is named or lies here; without one, the defaults."""
    if config is None and not os.path.exists("config.toml"):
        # No models folder of our own: engines then use their libraries' caches.
        return msgspec.structs.replace(
            Settings(), models=msgspec.structs.replace(Settings().models, dir=b"")
        )
    return read_config(config or "config.toml")


def _check_folders(args: argparse.Namespace, given: Given, output: bytes) -> None:
    for folder in given.folders:
        if (output + b"/").startswith(folder.rstrip(b"/") + b"/"):
            args.usage_error(
                f"--output {shown(output)} lies in the given folder {shown(folder)}: "
                "results would be taken for files to process; choose another folder"
            )
    if len(given.names) > FOLDERS_LIMIT:
        args.usage_error(
            f"files from {len(given.names)} folders were named, at most {FOLDERS_LIMIT} are "
            "possible at once; name a folder that holds them all, or fewer files"
        )


def _make_output(output: bytes) -> None:
    try:
        make_folders(output)
    except OSError as error:
        raise ConfigError(
            f"the output folder {shown(output)} can not be made: {error.strerror}",
            "choose another with --output",
        ) from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise ConfigError(f"the output folder {shown(output)} can not be written")


def _settings(
    args: argparse.Namespace,
    base: Settings,
    given: Given,
    options: dict[str, object],
    output: bytes,
    state: bytes,
) -> Settings:
    """A service over exactly these files, which leaves the originals alone."""
    watches = tuple(
        WatchSettings(
            name=f"files-{number}", path=root, recipe=args.recipe, outbox=output,
            archive=b"", failed=b"", after="keep", settle_seconds=0.0, incomplete_seconds=0.0,
            receipts=False, options=options, only=frozenset(names),
        )
        for number, (root, names) in enumerate(given.names.items(), start=1)
    )  # fmt: skip
    worker, gpu = base.worker, base.gpu
    if args.lanes is not None:
        worker = msgspec.structs.replace(worker, lanes=args.lanes)
    if args.device is not None:
        gpu = msgspec.structs.replace(gpu, device=args.device)
    log_dir = os.path.abspath(os.fsencode(args.log)) if args.log else os.path.join(state, b"logs")
    return Settings(
        daemon=DaemonSettings(
            state_dir=state, log_dir=log_dir, log_level="warning",
            status_seconds=0.25, stop_seconds=STOP_S,
        ),
        queue=QueueSettings(retry_seconds=2.0, disk_low_gb=0.5, disk_stop_gb=0.2),
        worker=worker, gpu=gpu, models=base.models, recipes=base.recipes, watch=watches,
    )  # fmt: skip
