"""Any value made harmless for JSON: text on one printable line, bytes shown, numbers finite."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pipeline.core.text import shown

TEXT_LIMIT = 4096  # characters; a path below a watch may be long


def harmless(value: object) -> Any:
    """The value as plain JSON types that any parser takes and no name can forge anything in.

    Text and bytes are escaped as by shown(), NaN and infinities become null, structs become
    objects, and what JSON does not know is shown as text.
    """
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str() | bytes():
            return harmless_text(value)
        case msgspec.Struct():
            return harmless(msgspec.structs.asdict(value))
        case Mapping():
            return {harmless_text(_key(key)): harmless(item) for key, item in value.items()}
        case Iterable():
            return [harmless(item) for item in value]
        case _:
            return harmless_text(str(value))


def harmless_text(text: str | bytes) -> str:
    """One printable line; the common case, plain ASCII, at the cost of a look."""
    if isinstance(text, str) and len(text) <= TEXT_LIMIT and text.isascii() and text.isprintable():
        return str(text)
    return shown(text, TEXT_LIMIT)


def _key(key: object) -> str | bytes:
    return key if isinstance(key, str | bytes) else str(key)
