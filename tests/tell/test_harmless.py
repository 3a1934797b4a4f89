"""Values made harmless for JSON."""

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from daemon.tell.harmless import TEXT_LIMIT, harmless
from pipeline.core.contract import Usage

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary()
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


def texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


@given(VALUES)
def test_any_value_is_strict_json_without_control_characters(value: object) -> None:
    """Whatever goes in comes out as strict JSON, and no text in it has a control character."""
    clean = harmless(value)
    assert json.loads(json.dumps(clean, allow_nan=False)) == clean
    json.dumps(clean, ensure_ascii=False).encode()
    for text in texts(clean):
        assert len(text) <= TEXT_LIMIT
        assert not any(unicodedata.category(char)[0] == "C" for char in text)


@given(VALUES)
def test_cleaning_twice_changes_nothing(value: object) -> None:
    """A value that was made harmless stays as it is."""
    assert harmless(harmless(value)) == harmless(value)


def test_structs_and_unknown_types_are_shown() -> None:
    """A struct becomes an object, and what JSON does not know becomes its text."""
    assert harmless({"usage": Usage(rss=5)})["usage"]["rss"] == 5
    assert harmless(ValueError("bad\nname")) == r"bad\nname"
