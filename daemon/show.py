"""The settings in force as TOML text, which can be read again."""

import os
from typing import Any

import msgspec

from daemon.settings import Settings, WatchSettings
from pipeline.core.recipes import RECIPES, read_options
from pipeline.core.text import shown

_NOT_IN_FILE = frozenset({"only"})


def show(settings: Settings) -> str:
    """Every key with its value, options with their defaults; folders absolute.

    A folder whose name is no valid text appears escaped, and only then can not be read again.
    """
    blocks = []
    for section in Settings.__struct_fields__:
        value = getattr(settings, section)
        if section == "recipes":
            blocks += [_block(f"[recipes.{name}]", each) for name, each in value.items()]
        elif section == "watch":
            blocks += [_watch(each) for each in value]
        else:
            blocks.append(_block(f"[{section}]", msgspec.structs.asdict(value)))
    return "\n".join(blocks)


def _watch(watch: WatchSettings) -> str:
    values = msgspec.structs.asdict(watch)
    recipe = RECIPES.get(watch.recipe)
    if recipe is not None:
        values["options"] = msgspec.structs.asdict(read_options(recipe, watch.options))
    return _block("[[watch]]", values)


def _block(header: str, values: dict[str, Any]) -> str:
    lines = [
        f"{_key(key)} = {toml_value(value)}\n"
        for key, value in values.items()
        if value is not None and key not in _NOT_IN_FILE
    ]
    return f"{header}\n{''.join(lines)}"


def toml_value(value: object) -> str:
    """One value as TOML writes it; TypeError for what a setting can not be."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bytes):
        return _quoted(_path_text(value))
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "a").replace("-", "a").isalnum()
    return key if bare else _quoted(key)


def _quoted(text: str) -> str:
    """A basic string; whatever could disturb a terminal or the reader is written as its number."""
    return '"' + "".join(_char(char) for char in text) + '"'


def _char(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _path_text(path: bytes) -> str:
    text = os.fsdecode(path)
    if text.isprintable() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return shown(path, limit=10 * len(path) + 1)
