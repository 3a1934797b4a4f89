"""Which line of a TOML text a key stands on: a small scanner beside the real parser.

The parser (tomli) gives values without places. This scanner reads the same text, decides nothing
about its meaning, and never fails: on a text that is no TOML it finds fewer keys.
"""

import re
from collections.abc import Iterator

import tomli

Path = tuple[str | int, ...]  # ("watch", 0, "options", "language"): names, and places in arrays

_DEPTH = 8  # parts of a path that are kept; nothing in our files is deeper
# Each alternative ends somewhere, also without its closing quote, so that scanning stays linear.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"""(?:"{0,2})|\Z)'
    r"|'''.*?(?:'''(?:'{0,2})|\Z)"
    r'|"(?:[^"\\\n]|\\.)*(?:"|(?=\n)|\Z)'
    r"|'[^'\n]*(?:'|(?=\n)|\Z)"
    r"|\#[^\n]*|[ \t\r]+|\n"
    r"|[\[\]{}=.,]"
    r"|[^\s\[\]{}=.,#\"']+"
    r"|.",
    re.DOTALL,
)
_Token = tuple[str, int]  # the text and its line, counted from 1


def lines_of(text: str) -> dict[Path, int]:
    """The line of every table header and key outside of inline tables and arrays."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}  # how many [[tables]] of each array came so far
    table: Path = ()
    for statement in _statements(text):
        line = statement[0][1]
        words = [word for word, _line in statement]
        if words[0] != "[":
            if "=" in words:
                _note(found, table, _key(words[: words.index("=")]), line)
            continue
        parts = _key(words)
        table = _resolve((), parts[:-1], counts)
        table = (*table, *parts[-1:])
        if words[:2] == ["[", "["]:
            found.setdefault(table, line)
            counts[table] = counts.get(table, 0) + 1
        if table in counts:
            table = (*table, counts[table] - 1)
        found.setdefault(table, line)
    return found


def line_at(lines: dict[Path, int], path: Path) -> int:
    """The line of the key, or of the nearest thing that holds it; 0 if nothing does."""
    for end in range(len(path), 0, -1):
        if line := lines.get(path[:end]):
            return line
    return 0


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        word = match.group()
        if word == "\n" or not (word.isspace() or word.startswith("#")):
            yield word, line
        line += word.count("\n")


def _statements(text: str) -> Iterator[list[_Token]]:
    """The tokens of one header or one `key = value` at a time."""
    statement: list[_Token] = []
    depth = 0
    for word, line in _tokens(text):
        if word == "\n":
            if depth <= 0 and statement:
                yield statement
                statement, depth = [], 0
            continue
        depth += (word in ("[", "{")) - (word in ("]", "}"))
        statement.append((word, line))
    if statement:
        yield statement


def _key(words: list[str]) -> list[str]:
    """The parts of a dotted key, unquoted."""
    return [_unquoted(word) for word in words if word not in (".", "[", "]")][:_DEPTH]


def _unquoted(word: str) -> str:
    if not word.startswith(('"', "'")):
        return word
    try:
        return str(tomli.loads(f"key = {word}")["key"])
    except ValueError:
        return word


def _resolve(start: Path, parts: list[str], counts: dict[Path, int]) -> Path:
    """A header's parts as a path: a name of an array means its latest table."""
    path = start
    for part in parts:
        path = (*path, part)
        if path in counts:
            path = (*path, counts[path] - 1)
    return path


def _note(found: dict[Path, int], table: Path, parts: list[str], line: int) -> None:
    for end in range(1, len(parts) + 1):
        found.setdefault((*table, *parts[:end]), line)
