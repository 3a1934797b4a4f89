"""Tests of daemon/tickets.py: a ticket changes how one file is worked on, and nothing else."""

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.show import toml_value
from daemon.tickets import SIZE_LIMIT, Ticket, read_ticket
from pipeline.core import recipes
from pipeline.core.errors import BadInput

BASE = {"language": "de", "batch": 4}


def read(text: str, recipe: str = "transcribe", base: dict[str, Any] | None = None) -> Ticket:
    return read_ticket(text.encode(), recipe, BASE if base is None else base)


def reason(text: str | bytes, recipe: str = "transcribe") -> str:
    with pytest.raises(BadInput) as caught:
        read_ticket(text if isinstance(text, bytes) else text.encode(), recipe, BASE)
    assert caught.value.hint
    return caught.value.reason


def test_an_empty_ticket_changes_nothing() -> None:
    """No wish leaves the watch's own options and priority."""
    assert read("# nothing\n") == Ticket(priority=None, options=BASE)


def test_a_ticket_wins_over_its_watch() -> None:
    """Priority and options of the ticket count; what it does not say stays."""
    text = '\ufeffpriority = -7\n[options]\nlanguage = "en"\nvad_threshold = 1\nmodel = "base.en"\n'
    base = dict(BASE)
    found = read(text, base=base)
    assert found.priority == -7
    assert found.options == {"language": "en", "batch": 4, "vad_threshold": 1.0, "model": "base.en"}
    assert base == BASE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "\nprority = 5",
            'ticket line 2: key "prority" is not known; did you mean "priority"?',
        ),
        (
            '[options]\nlangage = "en"',
            'ticket line 2: option "langage" of transcribe is not known; did you mean "language"?',
        ),
        ('language = "en"', 'ticket line 1: key "language" is not known; it belongs in [options]'),
        (
            "priority = 1001",
            'ticket line 1: key "priority" must be at most 1000, is the number 1001',
        ),
        ("priority = -1001", "must be at least -1000"),
        ("priority = true", "must be a whole number, is true"),
        ("options = 1", 'ticket line 1: key "options" must be a table, is the number 1'),
        ("[options]\nbatch = 0", 'option "batch" of transcribe must be at least 1'),
        ('path = "/etc"', 'ticket line 1: key "path" is not known'),
        ("a = ", "ticket line 1: is no TOML: Invalid value (column 5)"),
        (b"a = 1\n\xff", "ticket line 2: is not valid UTF-8"),
        ("a = " + "[" * 5000, "the ticket is no TOML: "),
        ("a = " + "9" * 5000, "the ticket is no TOML: "),
        (b"#" * (SIZE_LIMIT + 1), "the ticket is larger than 65536 bytes"),
    ],
)
def test_a_wrong_ticket(text: str | bytes, expected: str) -> None:
    """Each kind of mistake is said with line, key and the nearest name."""
    assert expected in reason(text)


@pytest.mark.parametrize(
    "model",
    [
        "/srv/m.pt", "m.pt", "./m", "../m", "~/m", "a/b", "a\\\\b", "m.bin", ".m", "m\\n",
        "tiny.en.pt", "",
    ],
)  # fmt: skip
def test_a_ticket_names_no_weights(model: str) -> None:
    """Loading weights can run what is in them, so a ticket chooses a model by its name only."""
    found = reason(f'[options]\nmodel = "{model}"\n')
    assert found.startswith('ticket line 2: option "model" of transcribe is the text "')
    assert "not by a path" in found


@pytest.mark.parametrize("model", ["tiny", "base.en", "large-v3-turbo"])
def test_a_ticket_names_models(model: str) -> None:
    """The names of Whisper's models are fine, and a path in the config stays."""
    assert read(f'options.model = "{model}"').options["model"] == model
    assert read("priority = 1", base={"model": "/srv/own.pt"}).options == {"model": "/srv/own.pt"}


class _Paths(recipes.Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options that a later recipe could have."""

    portrait: str = ""
    fonts: tuple[str, ...] = ()
    maybe: str | None = None
    shade: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")] = "red"
    low: int = 0
    high: int = 9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe with options of every kind."""
    recipe = msgspec.structs.replace(recipes.RECIPES["noop"], name="gallery", options=_Paths)
    monkeypatch.setitem(recipes.RECIPES, "gallery", recipe)
    return "gallery"


@pytest.mark.parametrize("wish", ['portrait = "/etc/shadow"', 'fonts = ["/x"]', 'maybe = "x"'])
def test_free_text_is_refused_until_it_is_known_harmless(gallery: str, wish: str) -> None:
    """A new option that could name a file of the server is closed to tickets by itself."""
    found = reason(f"[options]\n{wish}\n", gallery)
    assert "can only be set in the config, because it can name a file of the server" in found


def test_choices_and_patterns_are_open(gallery: str) -> None:
    """What the recipe itself limits can be set from a share."""
    assert read('options.shade = "blue"', gallery, {}).options == {"shade": "blue"}


def test_options_that_only_clash_together(gallery: str) -> None:
    """The ticket's wish and the watch's option are also checked as a whole."""
    with pytest.raises(BadInput, match="low is above high"):
        read("[options]\nlow = 5\n", gallery, {"high": 3})


def test_a_reason_stays_short_and_harmless() -> None:
    """Thousands of mistakes make a reason of a few; a name can not break its line."""
    found = reason("\n".join(f"k{number} = 1" for number in range(5000)))
    assert "and 4995 more" in found
    assert len(found) < 2000
    assert "\n" not in reason('"a\\nb\\u001b" = 1')


@given(st.binary(max_size=60) | st.text("a=[]{}.\"'\n#1o", max_size=60).map(str.encode))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Whatever lies on the share is a ticket or BadInput."""
    try:
        read_ticket(data, "transcribe", BASE)
    except BadInput:
        return


keys = st.sampled_from([*recipes.TranscribeOptions.__struct_fields__, "zz"])
values = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just({}), st.just([1])
)


@given(st.dictionaries(keys, values, max_size=4), values)
def test_what_is_accepted_is_what_the_recipe_takes(
    options: dict[str, Any], priority: object
) -> None:
    """An accepted ticket's options pass the recipe's own check and name no path of weights."""
    text = f"priority = {toml_value(priority)}\noptions = {toml_value(options)}\n"
    try:
        found = read(text)
    except BadInput:
        return
    recipes.read_options(recipes.RECIPES["transcribe"], found.options)
    assert "/" not in found.options.get("model", "")
    assert found.priority is not None
    assert -1000 <= found.priority <= 1000
