"""Checks a TOML table against a record's fields and says in plain words all that is wrong.

msgspec stops at its first error and speaks of types; people want every mistake at once, each with
its line and the name that they probably meant.
"""

import datetime
import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.inspect import Metadata, Type, type_info
from msgspec.structs import FieldInfo

from daemon.toml_lines import Path, line_at, lines_of
from pipeline.core.text import shown

NAME_LIMIT = 60  # characters of a wrong key or value that a message repeats
PATH_LIMIT = 4000  # characters; the system takes 4095 bytes
ENOUGH = 200  # problems after which looking for similar names stops: a hostile text is long
_BITS = 2**63  # what SQLite and JSON can carry
_KINDS = {
    msgspec.inspect.BoolType: ("true or false", (bool,)),
    msgspec.inspect.IntType: ("a whole number", (int,)),
    msgspec.inspect.FloatType: ("a number", (int, float)),
    msgspec.inspect.StrType: ("text", (str,)),
    msgspec.inspect.BytesType: ("a folder's path as text", (str,)),
    msgspec.inspect.DictType: ("a table", (dict,)),
}


class Problem(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One mistake: where it stands (0: nowhere in particular) and what it is."""

    line: int
    text: str


class Findings:
    """The problems of one text, found so far."""

    def __init__(self, text: str) -> None:
        self._lines = lines_of(text)
        self.problems: list[Problem] = []

    def line(self, path: Path) -> int:
        """The line of that key, or of what holds it; 0 if it is nowhere."""
        return line_at(self._lines, path)

    def add(self, path: Path, text: str) -> None:
        """Note a problem at that key."""
        self.problems.append(Problem(line=self.line(path), text=text))

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """The known name that is most like this one; empty if none is."""
        if len(self.problems) > ENOUGH:
            return ""
        return next(iter(difflib.get_close_matches(name[:NAME_LIMIT], list(known), n=1)), "")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Which table is checked and how a message calls it."""

    path: Path
    label: str  # "[queue]: "
    subject: str = 'key "{}"'  # how a message names one key
    elsewhere: dict[str, str] = {}  # keys of other sections: where each belongs


def fields_of(
    kind: type[msgspec.Struct], without: frozenset[str] = frozenset()
) -> dict[str, FieldInfo]:
    """The fields of a record that a file may set."""
    return {
        field.encode_name: field
        for field in msgspec.structs.fields(kind)
        if field.name not in without
    }


def check_table(
    findings: Findings, place: Place, given: dict[str, Any], fields: dict[str, FieldInfo]
) -> dict[str, Any]:
    """The values that are right, as their types (folders still as text); notes all others."""
    good: dict[str, Any] = {}
    meant: set[str] = set()
    for key, value in given.items():
        field = fields.get(key)
        if field is None:
            meant.add(_unknown(findings, place, key, fields))
            continue
        wrong = wrong_with(field.type, value)
        if wrong:
            hint = _nearest_value(findings, field.type, value)
            findings.add(
                (*place.path, key), f"{place.label}{place.subject.format(key)} {wrong}{hint}"
            )
        else:
            good[key] = value if field.type is bytes else msgspec.convert(value, field.type)
    for key, field in fields.items():
        if field.required and key not in given and key not in meant:
            findings.add(place.path, f"{place.label}{place.subject.format(key)} is missing")
    return good


def _unknown(findings: Findings, place: Place, key: str, fields: dict[str, FieldInfo]) -> str:
    """Note an unknown key; returns the known one that was probably meant."""
    near = findings.nearest(key, fields)
    text = f"{place.label}{place.subject.format(shown(key, NAME_LIMIT))} is not known"
    if near:
        text += f'; did you mean "{near}"?'
    elif key in place.elsewhere:
        text += f"; it belongs in {place.elsewhere[key]}"
    elif len(findings.problems) <= ENOUGH:
        text += f"; known are {', '.join(sorted(fields))}"
    findings.add((*place.path, key), text)
    return near


def _nearest_value(findings: Findings, kind: Any, value: object) -> str:
    info = _bare(kind)[0]
    if isinstance(info, msgspec.inspect.LiteralType) and isinstance(value, str):
        near = findings.nearest(value, map(str, info.values))
        return f'; did you mean "{near}"?' if near else ""
    return ""


def wrong_with(kind: Any, value: object) -> str:
    """Why a value does not fit a type, as `must be …, is …`; empty if it fits."""
    info, words = _bare(kind)
    need = _type_need(info, value) or _limit_need(info, value)
    if not need:
        try:
            msgspec.convert(value, str if kind is bytes else kind)
        except (msgspec.ValidationError, OverflowError) as error:
            return f"is not right: {error}"
        return ""
    if words and isinstance(value, str):
        need = words
    return f"must be {need}, is {in_words(value)}"


def _bare(kind: Any) -> tuple[Type, str]:
    """The type without its notes, and the note that says in words what it wants."""
    info = type_info(kind)
    if isinstance(info, Metadata):
        return info.type, str((info.extra_json_schema or {}).get("description", ""))
    return info, ""


def _type_need(info: Type, value: object) -> str:
    if isinstance(info, msgspec.inspect.LiteralType):
        if isinstance(value, str | int) and value in info.values:
            return ""
        return f"one of {', '.join(sorted(map(_literal, info.values)))}"
    if type(info) not in _KINDS:
        return ""
    words, classes = _KINDS[type(info)]
    fits = isinstance(value, classes) and (not isinstance(value, bool) or bool in classes)
    return "" if fits else words


def _literal(choice: str | int | None) -> str:
    return f'"{choice}"' if isinstance(choice, str) else str(choice)


def _limit_need(info: Type, value: object) -> str:
    """What a value of the right type still lacks."""
    if isinstance(info, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        assert isinstance(value, int | float)
        return _number_need(info, value)
    if isinstance(info, msgspec.inspect.StrType | msgspec.inspect.BytesType):
        assert isinstance(value, str)
        return _text_need(info, value)
    return ""


def _number_need(info: msgspec.inspect.IntType | msgspec.inspect.FloatType, value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    needs = (
        (info.ge is not None and value < info.ge, f"at least {_plain(info.ge)}"),
        (info.gt is not None and value <= info.gt, f"more than {_plain(info.gt)}"),
        (info.le is not None and value > info.le, f"at most {_plain(info.le)}"),
        (info.lt is not None and value >= info.lt, f"less than {_plain(info.lt)}"),
        (info.multiple_of and value % info.multiple_of, f"a multiple of {info.multiple_of}"),
        (not -_BITS <= value < _BITS, "a number of at most 18 digits"),
    )
    return next((need for fails, need in needs if fails), "")


def _plain(limit: float | None) -> str:
    return str(int(limit)) if isinstance(limit, float) and limit.is_integer() else str(limit)


def _text_need(info: msgspec.inspect.StrType | msgspec.inspect.BytesType, value: str) -> str:
    if "\0" in value:
        return "text without NUL characters"
    if info.min_length is not None and len(value) < info.min_length:
        return f"text of at least {info.min_length} characters"
    if info.max_length is not None and len(value) > info.max_length:
        return f"text of at most {info.max_length} characters"
    if isinstance(info, msgspec.inspect.BytesType) and len(value) > PATH_LIMIT:
        return f"a path of at most {PATH_LIMIT} characters"
    pattern = getattr(info, "pattern", None)
    # msgspec searches, and "$" lets a last newline pass; here the whole value has to fit.
    if pattern and not (re.search(pattern, value) and "\n" not in value):
        return f"text like the pattern {pattern}"
    return ""


def in_words(value: object) -> str:
    """A value of a TOML file as a message names it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and not -_BITS <= value < _BITS:
        return "a very large number"  # more digits than Python may be willing to print
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{shown(value, NAME_LIMIT)}"'
    if isinstance(value, list):
        return "a list"
    if isinstance(value, datetime.date | datetime.time):
        return "a date or time"
    return "a table"
