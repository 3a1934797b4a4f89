"""`--option KEY=VALUE`: how text becomes the options of a recipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.cli.options import WrongOption, parse_options
from pipeline.core.recipes import RECIPES, read_options

TRANSCRIBE = RECIPES["transcribe"]


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("language=en", "en"),
        ('language="en"', "en"),
        ("model=1", "1"),
        ("model=true", "true"),
        ("batch=4", 4),
        ("vad_threshold=0.25", 0.25),
        ("vad_threshold=1", 1.0),
        ("prompt=a = b # c", "a = b # c"),
        ("prompt=", ""),
        ("prompt=1\nbatch = 2", "1\nbatch = 2"),
    ],
)
def test_a_value_is_read_as_the_option_wants_it(pair: str, value: object) -> None:
    """TOML where it fits the option's type, else the text as it stands."""
    key = pair.partition("=")[0]
    assert parse_options([pair], TRANSCRIBE, {})[key] == value


def test_the_last_one_counts_and_defaults_stay() -> None:
    """A later pair wins over an earlier one, and both over the config's options."""
    told = parse_options(["batch=2", "batch=3"], TRANSCRIBE, {"batch": 1, "beam": 5})
    assert told == {"batch": 3, "beam": 5}


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("lang=en", "language"),
        ("batch=0", "at least 1"),
        ("batch=many", "whole number"),
        ("task=transcrib", 'mean "transcribe"?'),
        ("batch", "no KEY=VALUE"),
        ("=1", "not known"),
    ],
)
def test_a_wrong_option_says_what_would_be_right(pair: str, told: str) -> None:
    """The message names the option and the nearest thing that is right."""
    with pytest.raises(WrongOption, match=r"option|KEY=VALUE") as error:
        parse_options([pair], TRANSCRIBE, {})
    assert told in str(error.value)


@given(st.lists(st.text() | st.tuples(st.sampled_from(list(TRANSCRIBE.options.__struct_fields__)),
                                      st.text()).map("=".join)))  # fmt: skip
def test_any_text_gives_good_options_or_one_kind_of_error(pairs: list[str]) -> None:
    """Whatever is written, the result can be used by the recipe, or WrongOption is raised."""
    try:
        told = parse_options(pairs, TRANSCRIBE, {})
    except WrongOption:
        return
    read_options(TRANSCRIBE, told)
