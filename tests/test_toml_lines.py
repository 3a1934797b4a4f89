"""Tests of daemon/toml_lines.py: keys are found on their lines, and no text breaks the scanner."""

import tomli
from hypothesis import given
from hypothesis import strategies as st

from daemon.show import toml_value
from daemon.toml_lines import line_at, lines_of

TEXT = '''\
# [comment] = "no key"
top = 1
[daemon]  # [queue]
state_dir = "a # b"
"quoted.key" = 2
'literal' = 3
"caf\\u00e9" = 4
dotted . inner."deep er" = 5
[queue]
text = """
size = 9
[[watch]]
\\""" still text""\"""
raw = \'\'\'
[gpu]
\'\'\'
list = [
  "a", # ]
  [ 1, { x = 2 } ],
]
after_list = 1
[[watch]]
name = "one"
options = { language = "en" }
[watch.options2]
x = 1
[[watch]]
name = "two"
[[watch.inner]]
y = 1
[[watch.inner]]
y = 2
[recipes.transcribe]
model = "small"
'''


def test_keys_are_found_on_their_lines() -> None:
    """Dotted and quoted keys, long strings, arrays and arrays of tables do not mislead it."""
    tomli.loads(TEXT)  # the text is TOML
    lines = lines_of(TEXT)
    rows = TEXT.splitlines()

    def row(*path: str | int) -> str:
        return rows[line_at(lines, path) - 1]

    assert row("top") == "top = 1"
    assert row("daemon").startswith("[daemon]")
    assert row("daemon", "state_dir").startswith("state_dir")
    assert row("daemon", "quoted.key").startswith('"quoted.key"')
    assert row("daemon", "literal").startswith("'literal'")
    assert row("daemon", "café").startswith('"caf')
    assert row("daemon", "dotted", "inner", "deep er").startswith("dotted")
    assert row("queue", "text") == 'text = """'
    assert row("queue", "raw") == "raw = '''"
    assert row("queue", "list") == "list = ["
    assert row("queue", "after_list") == "after_list = 1"
    assert line_at(lines, ("queue", "size")) == line_at(lines, ("queue",))
    assert line_at(lines, ("gpu",)) == 0
    assert row("watch", 0, "name") == 'name = "one"'
    assert row("watch", 0, "options", "language").startswith("options =")
    assert row("watch", 0, "options2", "x") == "x = 1"
    assert row("watch", 1, "name") == 'name = "two"'
    assert row("watch", 1, "inner", 0, "y") == "y = 1"
    assert row("watch", 1, "inner", 1, "y") == "y = 2"
    assert row("recipes", "transcribe", "model") == 'model = "small"'


values = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab.\"'#[]= é", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_every_key_is_found_whatever_it_is_called(table: dict[str, object], newline: str) -> None:
    """A key of any text with any value stands on the line that it was written on."""
    rows = [f"{toml_value(key)} = {toml_value(value)}  # {{" for key, value in table.items()]
    text = newline.join(["[queue]", *rows, ""])
    assert tomli.loads(text) == {"queue": table}
    lines = lines_of(text)
    for number, key in enumerate(table, start=2):
        assert lines["queue", key] == number


@given(st.text(st.sampled_from("a.=[]{}\"'\\#\n\r \t,é"), max_size=60))
def test_no_text_breaks_the_scanner(text: str) -> None:
    """What is no TOML gives some lines, all of them in the text, and never an error."""
    assert all(1 <= line <= text.count("\n") + 1 for line in lines_of(text).values())
