"""Reads config.toml into the settings, or says everything that is wrong with it."""

import os
from typing import Any

import tomli

from daemon.checks import Findings
from daemon.config_reader import Reader
from daemon.intake.mounts import find_place
from daemon.settings import Settings, WatchSettings
from daemon.show import show as show
from pipeline.core import files
from pipeline.core.errors import ConfigError, Transient
from pipeline.core.text import shown

SYSTEM_CONFIG = "/etc/penstock/config.toml"
SIZE_LIMIT = 1024 * 1024  # bytes
_NAME_HINT = "name the config with --config FILE"


def find_config(given: str | None) -> str:
    """The config's path: the one given, else ./config.toml, else the system's."""
    if given is not None:
        return given
    for path in ("config.toml", SYSTEM_CONFIG):
        if os.path.exists(path):
            return path
    raise ConfigError(f"there is no config: neither ./config.toml nor {SYSTEM_CONFIG}", _NAME_HINT)


def read_config(path: str | bytes) -> Settings:
    """The settings of a config file, all folders absolute.

    Raises ConfigError; each line of its reason is one problem with file, line, section and key.
    """
    file = shown(path)
    text = _text_of(path, file)
    document = _parsed(text, file)
    folder = os.path.dirname(os.path.abspath(os.fsencode(path)))
    reader = Reader(Findings(text), folder)
    settings = reader.settings(document)
    if settings is not None:
        return settings
    lines = [
        f"{file}:{problem.line}: {problem.text}" if problem.line else f"{file}: {problem.text}"
        for problem in sorted(reader.findings.problems)
    ]
    raise ConfigError("\n".join(lines))


def make_folders(settings: Settings) -> list[str]:
    """Make what folders are missing; returns what could not be made or used, in plain sentences.

    A watch that must be a mount gets none while it is offline: they would land beneath the mount.
    """
    problems = _made("state_dir", settings.daemon.state_dir)
    problems += _made("log_dir", settings.daemon.log_dir)
    for watch in settings.watch:
        problems += make_watch_folders(watch)
    return problems


def make_watch_folders(watch: WatchSettings) -> list[str]:
    """The same for one watch; call it again when its mount has come."""
    if watch.require_mount and not _mounted(watch.path):
        return []
    roles = {
        "watched": watch.path,
        "outbox": watch.outbox,
        "archive": watch.archive,
        "failed": watch.failed,
    }
    return [
        problem
        for role, folder in roles.items()
        if folder
        for problem in _made(f"{role} folder of watch {watch.name}", folder)
    ]


def _mounted(path: bytes) -> bool:
    try:
        find_place(path, require_mount=True)
    except Transient:
        return False
    return True


def _made(what: str, folder: bytes) -> list[str]:
    try:
        files.make_folders(folder)
    except OSError as error:
        return [
            f"the {what} ({shown(folder)}) can not be made: {error.strerror}; "
            "make it yourself and give it to the service's user, or choose another"
        ]
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return [
            f"the {what} ({shown(folder)}) can not be read and written; "
            "give the service's user these rights"
        ]
    return []


def _text_of(path: str | bytes, file: str) -> str:
    """The file's text without a byte order mark."""
    try:
        # Not blocking: a pipe in the config's place must not hang the start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as source:
            data = source.read(SIZE_LIMIT + 1) or b""
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file", _NAME_HINT) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{file}: can not be read: {why}", _NAME_HINT) from None
    if len(data) > SIZE_LIMIT:
        raise ConfigError(f"{file}: is larger than {SIZE_LIMIT} bytes", _NAME_HINT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: is not valid UTF-8", "save it as UTF-8") from None


def _parsed(text: str, file: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError(
            f"{file}:{error.lineno}: is no TOML: {shown(error.msg)} (column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all sense
        raise ConfigError(f"{file}: is no TOML: {shown(str(error))}") from None
