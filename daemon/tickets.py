"""Reads a ticket: `NAME.penstock.toml` beside a drop sets that file's priority and options.

A ticket comes from a share and is untrusted. It may say how the file is worked on, never which
files of the server are opened: an option of free text counts only if it is listed here as harmless.
"""

import re
from typing import Any

import msgspec
import tomli

from daemon.checks import Findings, Place, check_table, fields_of, in_words
from daemon.settings import Priority
from pipeline.core.errors import BadInput, ConfigError
from pipeline.core.recipes import Recipe, read_options, recipe_named
from pipeline.core.text import shown

SIZE_LIMIT = 64 * 1024  # bytes
HINT = "mend the ticket, or delete it to use the folder's own options; then drop the file again"
_SAID = 5  # problems that the reason repeats; it stands in a note beside the file
_ANY_TEXT = re.compile(r"[^\0]*")
# Free text that a ticket may set, and how it must look. A name without dot or slash can be no path
# of weights: those are Python pickles, and loading one runs what it says.
_HARMLESS = {
    "language": _ANY_TEXT,
    "prompt": _ANY_TEXT,
    "model": re.compile(r"[A-Za-z0-9-]+(\.en)?"),
}


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a ticket asks for."""

    priority: int | None = None  # None: the watch's own
    options: dict[str, Any] = {}  # the watch's with the ticket's on top, checked


class _TicketKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a ticket."""

    priority: Priority = 0
    options: dict[str, Any] = {}


def read_ticket(data: bytes, recipe: str, base: dict[str, Any]) -> Ticket:
    """The ticket's wishes on top of the watch's options (`base`).

    Raises BadInput with line, key and the nearest known name. Whatever `data` holds, nothing else
    is raised; the caller reads at most SIZE_LIMIT + 1 bytes of the file.
    """
    text = _text_of(data)
    document = _parsed(text)
    findings = Findings(text)
    kind = recipe_named(recipe)
    elsewhere = dict.fromkeys(fields_of(kind.options), "[options]")
    place = Place(path=(), label="", elsewhere=elsewhere)
    good = check_table(findings, place, document, fields_of(_TicketKeys))
    own = good.get("options", {})
    subject = f'option "{{}}" of {recipe}'
    place = Place(path=("options",), label="", subject=subject)
    wishes = check_table(findings, place, own, fields_of(kind.options))
    for key in wishes:
        if why := _not_for_tickets(kind, key, wishes[key]):
            findings.add(("options", key), f'option "{key}" of {recipe} {why}')
    merged = base | wishes
    if not findings.problems:
        try:
            read_options(kind, merged)
        except ConfigError as error:
            findings.add(("options",), error.reason)
    if findings.problems:
        raise BadInput(_reason(findings), HINT)
    return Ticket(priority=good.get("priority"), options=merged)


def _text_of(data: bytes) -> str:
    if len(data) > SIZE_LIMIT:
        raise BadInput(f"the ticket is larger than {SIZE_LIMIT} bytes", HINT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"ticket line {line}: is not valid UTF-8", HINT) from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise BadInput(
            f"ticket line {error.lineno}: is no TOML: {shown(error.msg)} (column {error.colno})",
            HINT,
        ) from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all sense
        raise BadInput(f"the ticket is no TOML: {shown(str(error))}", HINT) from None


def _not_for_tickets(kind: Recipe, key: str, value: object) -> str:
    """Why this option can not come from a share; empty if it can."""
    if not _is_free_text(fields_of(kind.options)[key].type):
        return ""
    shape = _HARMLESS.get(key)
    if shape is None:
        return "can only be set in the config, because it can name a file of the server"
    if isinstance(value, str) and shape.fullmatch(value):
        return ""
    return (
        f"is {in_words(value)}; a ticket can choose a model by its name, such as "
        '"small", but not by a path: set that in the config'
    )


def _is_free_text(kind: Any) -> bool:
    """Whether any text can be given: neither a choice from a list nor a pattern limits it."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.StrType):
        return info.pattern is None
    plain = (
        msgspec.inspect.LiteralType,
        msgspec.inspect.BoolType,
        msgspec.inspect.IntType,
        msgspec.inspect.FloatType,
    )
    return not isinstance(info, plain)  # a list or a table may hold text


def _reason(findings: Findings) -> str:
    problems = sorted(findings.problems)
    said = [f"ticket line {problem.line}: {problem.text}" for problem in problems[:_SAID]]
    more = len(problems) - _SAID
    return "; ".join(said) + (f"; and {more} more" if more > 0 else "")
