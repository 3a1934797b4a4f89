"""Tests of daemon/config.py: every mistake is named with its line, and overlaps are refused."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import config_reader
from daemon.config import find_config, make_folders, read_config, show
from daemon.settings import Settings
from daemon.show import toml_value
from pipeline.core.errors import ConfigError
from pipeline.core.recipes import RECIPES, read_options

ROOT = Path(__file__).parent.parent
TALKS = """\
[[watch]]
name = "talks"
path = "in"
recipe = "transcribe"
outbox = "out"
archive = "archive"
failed = "failed"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is also the working directory."""
    folder = tmp_path.resolve()
    monkeypatch.chdir(folder)
    return folder


def read(text: str | bytes) -> Settings:
    Path("config.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config("config.toml")


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return caught.value.reason.splitlines()


def problem(text: str | bytes) -> str:
    (only,) = problems(text)
    return only


def watch(name: str, **keys: str) -> str:
    """A good watch with folders of its own, or with the given ones."""
    folders = {role: f"{role}-{name}" for role in ("path", "outbox", "archive", "failed")} | keys
    rows = [f'{key} = "{value}"' for key, value in folders.items()]
    return "\n".join(["[[watch]]", f'name = "{name}"', 'recipe = "noop"', *rows, ""])


# --- good configs


def test_the_shipped_config_is_good() -> None:
    """config.toml at the repository root has the watches talks and music, on folders beside it."""
    found = read_config(str(ROOT / "config.toml"))
    assert [(each.name, each.recipe) for each in found.watch] == [
        ("talks", "transcribe"),
        ("music", "visualize"),
    ]
    assert found.watch[0].path == os.fsencode(ROOT / "inbox/talks")
    assert found.daemon.state_dir == os.fsencode(ROOT / "state")


def test_paths_count_from_the_config(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative folders, also the default ones, lie beside the config; `~` is the home folder."""
    monkeypatch.setenv("HOME", "/home/ann")
    found = read(TALKS.replace('"in"', '"~/in"').replace('"out"', '"./x/../sub//out/"'))
    here = os.fsencode(home)
    assert found.watch[0].path == b"/home/ann/in"
    assert found.watch[0].outbox == here + b"/sub/out"
    assert found.watch[0].failed == here + b"/failed"
    assert found.daemon.state_dir == here + b"/state"
    assert found.models.dir == here + b"/models"
    monkeypatch.chdir("/")
    assert read_config(here + b"/config.toml") == found


def test_dots_behind_a_link_go_where_the_system_goes(home: Path) -> None:
    """`link/..` is the parent of the link's target, as it is for every other program."""
    (home / "far/deep").mkdir(parents=True)
    (home / "link").symlink_to("far/deep")
    found = read(TALKS.replace('"out"', '"link/../out"'))
    assert found.watch[0].outbox == os.fsencode(home / "far/out")


def test_names_that_are_no_ascii_and_a_byte_order_mark(home: Path) -> None:
    """Folders keep their UTF-8 names, and a mark that Windows editors write does no harm."""
    found = read(b"\xef\xbb\xbf" + TALKS.replace('"in"', '"Vorträge 日本"').encode())
    assert found.watch[0].path == os.fsencode(home) + "/Vorträge 日本".encode()


def test_options_of_a_watch_win_over_those_of_its_recipe(home: Path) -> None:
    """[recipes.NAME] is the default for every watch of that recipe, key by key."""
    text = '[recipes.transcribe]\nmodel = "tiny"\nvad_threshold = 1\n'
    found = read(text + TALKS + 'options = { model = "turbo", language = "en" }\n')
    assert found.watch[0].options == {"model": "turbo", "vad_threshold": 1.0, "language": "en"}
    assert found.recipes == {"transcribe": {"model": "tiny", "vad_threshold": 1.0}}


def test_watches_may_share_where_things_go(home: Path) -> None:
    """Two watches can have one outbox, one archive and one failed folder."""
    same = {"outbox": "o", "archive": "a", "failed": "f"}
    assert len(read(watch("a", **same) + watch("b", **same)).watch) == 2


def test_a_state_folder_may_hold_the_watches(home: Path) -> None:
    """`/var/lib/penstock` with the inbox in it is a common layout."""
    assert read('[daemon]\nstate_dir = "."\n' + TALKS)


# --- the file itself


def test_a_config_that_is_not_there(home: Path) -> None:
    """The reason names the file and the hint says how to name another."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file") as caught:
        read_config("nowhere.toml")
    assert "--config" in caught.value.hint


def test_what_is_no_readable_text(home: Path) -> None:
    """A folder, a pipe, a huge file, bytes that are no UTF-8 and a NUL end in a plain reason."""
    with pytest.raises(ConfigError, match="can not be read: Is a directory"):
        read_config(b"/")
    os.mkfifo("pipe")
    with pytest.raises(ConfigError):
        read_config("pipe")
    with pytest.raises(ConfigError, match="can not be read"):
        read_config("a\0b")
    assert problem(b"#" * (1024 * 1024 + 1)) == "config.toml: is larger than 1048576 bytes"
    assert problem(b"a = 1\nb = '\xff'\n") == "config.toml:2: is not valid UTF-8"


def test_a_syntax_error_has_line_and_column(home: Path) -> None:
    """What is no TOML is said with its place."""
    assert problem("a = 1\nb =\n") == "config.toml:2: is no TOML: Invalid value (column 4)"
    assert "is no TOML" in problem("a = " + "[" * 5000)
    assert "is no TOML" in problem("a = " + "9" * 5000)


def test_which_config_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one given, else the one here, else the system's, else a hint."""
    system = home / "etc.toml"
    monkeypatch.setattr("daemon.config.SYSTEM_CONFIG", str(system))
    assert find_config("x.toml") == "x.toml"
    with pytest.raises(ConfigError, match="there is no config"):
        find_config(None)
    system.touch()
    assert find_config(None) == str(system)
    Path("config.toml").touch()
    assert find_config(None) == "config.toml"


# --- sections, keys, values


def test_a_misspelt_key_has_its_line_and_the_nearest_name(home: Path) -> None:
    """The message of a typo, word for word."""
    assert problem(TALKS + "\n# quiet\n\nsettle_secnds = 5.0\n") == (
        'config.toml:11: [[watch]] "talks": key "settle_secnds" is not known; '
        'did you mean "settle_seconds"?'
    )


def test_every_problem_is_listed_in_the_order_of_lines(home: Path) -> None:
    """One start is enough to learn of every mistake."""
    found = problems('[queue]\nsize = 0\nattemps = 3\n[gpu]\ndevice = "gpu"\n' + TALKS + "x = 1\n")
    assert [line.split(" ")[0] for line in found] == [
        f"config.toml:{line}:" for line in (2, 3, 5, 13)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[qeue]", ":1: section [qeue] is not known; did you mean [queue]?"),
        ("[[wach]]", ":1: section [wach] is not known; did you mean [[watch]]?"),
        ("zzz = 1", ':1: key "zzz" is not known; known are [daemon], '),
        ("size = 1", ':1: key "size" stands outside of its section, [queue]'),
        ("queue = 5", ":1: [queue] must be a table, is the number 5"),
        ("[[queue]]", ":1: [queue] is one table: write it with single brackets"),
        ("[gpu]\nsize = 1", ':2: [gpu]: key "size" is not known; it belongs in [queue]'),
        ("[gpu]\nzzz = 1", ':2: [gpu]: key "zzz" is not known; known are device'),
        (
            '[daemon]\nstatus_seconds = "five"',
            ':2: [daemon]: key "status_seconds" must be a number, is the text "five"',
        ),
        (
            "[queue]\nsize = 1.5",
            ':2: [queue]: key "size" must be a whole number, is the number 1.5',
        ),
        ("[queue]\nsize = true", ':2: [queue]: key "size" must be a whole number, is true'),
        ("[queue]\nsize = 0", ':2: [queue]: key "size" must be at least 1, is the number 0'),
        (
            "[queue]\nsize = 0x" + "f" * 9000,
            ':2: [queue]: key "size" must be at most 1000000000000, is a very large number',
        ),
        (
            "[daemon]\nstop_seconds = 0",
            ':2: [daemon]: key "stop_seconds" must be more than 0, is the number 0',
        ),
        (
            "[queue]\nretry_seconds = inf",
            ':2: [queue]: key "retry_seconds" must be a finite number, is the number inf',
        ),
        (
            '[models]\noffline = "yes"',
            ':2: [models]: key "offline" must be true or false, is the text "yes"',
        ),
        (
            "[daemon]\nstate_dir = 2020-01-01",
            ':2: [daemon]: key "state_dir" must be a folder\'s path as text, is a date or time',
        ),
        ('[daemon]\nlog_dir = ""', ':2: [daemon]: key "log_dir" must not be empty'),
        ('[daemon]\nlog_dir = "a\\u0000"', "must be text without NUL characters"),
        (
            '[gpu]\ndevice = "gpu0"',
            ':2: [gpu]: key "device" must be one of "auto", "cpu", "cuda", is the text "gpu0"',
        ),
        (
            "[queue]\ndisk_stop_gb = 6",
            ':2: [queue]: key "disk_stop_gb" (6.0) must not be more than "disk_low_gb" (5.0)',
        ),
        ("recipes = 1", ":1: [recipes] must hold tables"),
        ("[recipes]\nnoop = 1", ":2: [recipes.noop] must be a table, is the number 1"),
        ("[recipes.nop]", ':1: [recipes.nop]: there is no recipe "nop"; did you mean "noop"?'),
        (
            "[recipes.noop]\nsecnds = 1",
            ':2: [recipes.noop]: option "secnds" of noop is not known; did you mean "seconds"?',
        ),
    ],
)
def test_a_wrong_section(home: Path, text: str, expected: str) -> None:
    """Each kind of mistake in a section is said with line, section, key and reason."""
    assert expected in problem(f"{text}\n{TALKS}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"talks"', '"Talks!"', ':2: [[watch]] "Talks!": key "name" must be 1 to 64 of "a-z", '),
        ('"talks"', '"talks\\n"', 'key "name" must be 1 to 64 of'),
        ('name = "talks"\n', "", ':1: [[watch]] number 1: key "name" is missing'),
        ('path = "in"\n', "", ':1: [[watch]] "talks": key "path" is missing'),
        ("outbox =", "outbx =", ':5: [[watch]] "talks": key "outbx" is not known; did you mean'),
        ('"out"', '""', ':5: [[watch]] "talks": key "outbox" must not be empty'),
        (
            '"transcribe"',
            '"transcrib"',
            ':4: [[watch]] "talks": there is no recipe "transcrib"; did you mean "transcribe"?',
        ),
        ('"transcribe"', '"zzz"', 'there is no recipe "zzz"; known are noop, transcribe'),
        (
            'archive = "archive"\n',
            'after = "archive"\n',
            ':6: [[watch]] "talks": after = "archive" (also if it is not said) needs key "archive"',
        ),
        ("archive =", "priority = 1001\narchive =", 'key "priority" must be at most 1000'),
        ("archive =", "only = []\narchive =", 'key "only" is not known'),
        ("archive =", "options = 1\narchive =", 'key "options" must be a table, is the number 1'),
        (
            '"in"',
            '"~nobody-of-that-name/in"',
            ':3: [[watch]] "talks": key "path": there is no home folder for "~nobody-of',
        ),
        (
            "archive =",
            'options = { language = "en",\n langage = "en" }\narchive =',
            ':6: [[watch]] "talks": option "langage" of transcribe is not known; '
            'did you mean "language"?',
        ),
        (
            "archive =",
            "options.batch = 100\narchive =",
            ':6: [[watch]] "talks": option "batch" of transcribe must be at most 64, is the number',
        ),
    ],
)
def test_a_wrong_watch(home: Path, old: str, new: str, expected: str) -> None:
    """Each kind of mistake in a watch is said with line, watch, key and reason."""
    assert old in TALKS
    assert expected in problem(TALKS.replace(old, new, 1))


def test_a_pattern_is_for_the_whole_value(home: Path) -> None:
    """A colour with a newline behind it would pass a plain `$`; here it does not."""
    text = '[recipes.visualize]\ncolour = "#35c2ff\\n"\n'
    assert 'option "colour" of visualize must be' in problem(text + TALKS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "config.toml: there is no [[watch]]; add one, for example with name = "),
        ("watch = []", "config.toml: there is no [[watch]]; add one"),
        ("watch = 1", "config.toml:1: [[watch]] must be tables, is the number 1"),
        ("watch = [1]", "config.toml:1: [[watch]] must be a table, is the number 1"),
        (TALKS.replace("[[watch]]", "[watch]"), "config.toml:1: [watch] must be written [[watch]]"),
    ],
)
def test_no_watch_at_all(home: Path, text: str, expected: str) -> None:
    """A config without a usable list of watches says what one looks like."""
    assert problem(text).startswith(expected)


def test_the_example_in_the_message_works(home: Path) -> None:
    """Who copies the example gets a watch."""
    assert read(f"watch = [{{ {config_reader.EXAMPLE} }}]").watch[0].name == "talks"


def test_two_watches_of_one_name(home: Path) -> None:
    """The second one is told where the first stands."""
    second = watch("talks").replace("-talks", "-other")
    assert problem(watch("talks") + second) == (
        'config.toml:9: [[watch]] "talks": the watch on line 1 has this name already'
    )


# --- overlaps


def test_an_outbox_inside_its_watch(home: Path) -> None:
    """The message of this mistake, word for word."""
    assert problem(TALKS.replace('"out"', '"in/out"')) == (
        f'config.toml:5: [[watch]] "talks": outbox {home}/in/out lies inside the path of '
        f'[[watch]] "talks", {home}/in; what is written there would come back in as new files; '
        "choose a folder outside of it"
    )


@pytest.mark.parametrize("role", ["outbox", "archive", "failed"])
@pytest.mark.parametrize("place", ["path-a", "path-a/x", "path-b", "path-b/x/y", "./x/../path-b/."])
def test_nothing_is_written_into_a_watch(home: Path, role: str, place: str) -> None:
    """Outbox, archive and failed folder lie neither in nor on a watch, their own or another."""
    found = problem(watch("a", **{role: place}) + watch("b"))
    assert f'[[watch]] "a": {role} ' in found
    assert "would come back in" in found


@pytest.mark.parametrize(
    ("section", "key"), [("daemon", "state_dir"), ("daemon", "log_dir"), ("models", "dir")]
)
@pytest.mark.parametrize("place", ["in", "in/x"])
def test_our_own_folders_are_no_drops(home: Path, section: str, key: str, place: str) -> None:
    """State, logs and models do not lie in a watch."""
    found = problem(f'[{section}]\n{key} = "{place}"\n{TALKS}')
    assert found.startswith(f"config.toml:2: [{section}]: {key} {home}/{place} ")


def test_the_default_state_folder_counts_too(home: Path) -> None:
    """A watch on the config's own folder would hold state and logs, though no key says so."""
    found = problems(TALKS.replace('"in"', '"."'))
    assert any(line.startswith(f"config.toml: [daemon]: state_dir {home}/state") for line in found)


@pytest.mark.parametrize("place", ["path-b", "path-b/x"])
def test_watches_do_not_lie_in_each_other(home: Path, place: str) -> None:
    """A file would be taken twice."""
    assert '[[watch]] "a"' in problem(watch("a", path=place) + watch("b"))
    assert '[[watch]] "a"' in problem(watch("b") + watch("a", path=place))


@pytest.mark.parametrize("role", ["outbox", "archive", "failed"])
@pytest.mark.parametrize("owner", ["a", "b"])
def test_a_watch_does_not_lie_where_things_go(home: Path, role: str, owner: str) -> None:
    """Results, done and failed originals would come in as new files."""
    found = problem(watch("a", path=f"{role}-{owner}/new") + watch("b"))
    assert found.startswith(f'config.toml:4: [[watch]] "a": path {home}/{role}-{owner}/new lies ')


@pytest.mark.parametrize(
    ("first", "second"), [("outbox", "archive"), ("archive", "failed"), ("outbox", "failed")]
)
@pytest.mark.parametrize("owner", ["a", "b"])
def test_results_and_originals_do_not_mix(home: Path, first: str, second: str, owner: str) -> None:
    """Outbox, archive and failed folder are three folders, also across watches."""
    found = problem(watch("a", **{first: f"{second}-{owner}"}) + watch("b"))
    assert "their files would mix" in found


def test_the_state_folder_is_nobodys_outbox(home: Path) -> None:
    """The ledger's folder and an outbox are two folders."""
    assert "their files would mix" in problem('[daemon]\nstate_dir = "out"\n' + TALKS)


def test_links_hide_no_overlap(home: Path) -> None:
    """Real folders are compared, and the message shows both the name and what is behind it."""
    (home / "in").mkdir()
    (home / "alias").symlink_to("in")
    found = problem(TALKS.replace('"out"', '"alias/out"'))
    assert f"outbox {home}/alias/out (really {home}/in/out) lies inside the path of" in found


def test_names_that_only_begin_alike_are_no_overlap(home: Path) -> None:
    """`in-2` is not inside `in`."""
    assert read(TALKS.replace('"out"', '"in-2"'))


def test_the_root_holds_everything(home: Path) -> None:
    """A watch on `/` overlaps with every folder."""
    found = problems(TALKS.replace('"in"', '"/"'))
    assert any(f"outbox {home}/out lies inside the path of" in line for line in found)


def test_the_ledger_does_not_go_on_a_share(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder on a network file system is refused."""
    # A test has no share at hand; what counts as one is tested where mounts are read.
    monkeypatch.setattr(config_reader, "is_network", lambda path: path.endswith(b"/nas/state"))
    found = problem('[daemon]\nstate_dir = "nas/state"\n' + TALKS)
    assert found.startswith(
        f"config.toml:2: [daemon]: state_dir {home}/nas/state lies on a network"
    )


# --- garbage

words = st.sampled_from([
    "name", "path", "recipe", "outbox", "options", "size", "state_dir", "after", "archive",
    "talks", "transcribe", "noop", "in", "out", "in/out", "~x", "keep", "zz", "batch", "",
])  # fmt: skip
garbage = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=12,
)  # fmt: skip
sections = st.sampled_from([*Settings.__struct_fields__, "memory", "x"])
likely = st.dictionaries(words, garbage, max_size=6)
documents = st.dictionaries(sections, garbage | likely | st.lists(likely, max_size=3), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(documents)
def test_no_document_breaks_the_reader(home: Path, document: dict[str, Any]) -> None:
    """Whatever the tables hold, the answer is settings or a ConfigError of whole lines."""
    text = "".join(f"{key} = {toml_value(value)}\n" for key, value in document.items())
    try:
        read(text)
    except ConfigError as error:
        lines = error.reason.splitlines()
        assert lines
        assert all(line.startswith("config.toml:") for line in lines)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40) | st.text("a=[]{}.\"'\n#1w", max_size=40).map(str.encode))
def test_no_bytes_break_the_reader(home: Path, data: bytes) -> None:
    """Bytes that are no config are refused in plain words."""
    with pytest.raises(ConfigError):
        read(data)


def test_hostile_names_stay_on_one_line(home: Path) -> None:
    """A key with a newline and a terminal escape in it can not forge a message."""
    (line,) = problems(TALKS + '"a\\nb\\u001b[31m" = 1\n')
    assert 'key "a\\nb\\x1b[31m" is not known' in line


# --- show


def effective(found: Settings) -> Settings:
    """The same settings with every option of every watch spelt out."""
    watches = []
    for each in found.watch:
        options = read_options(RECIPES[each.recipe], each.options)
        spelt = {key: getattr(options, key) for key in options.__struct_fields__}
        watches.append(type(each)(**{**_fields(each), "options": spelt}))
    return Settings(**{**_fields(found), "watch": tuple(watches)})


def _fields(record: Any) -> dict[str, Any]:
    return {key: getattr(record, key) for key in record.__struct_fields__}


def test_what_is_shown_can_be_read_again(home: Path) -> None:
    """The shown settings say every key and come to the same settings, wherever they are read."""
    found = read(
        '[recipes.transcribe]\nprompt = "\\"a\\" \\u202e\\n\\\\ é"\n'
        + TALKS.replace('"in"', '"Vorträge [1]\\t#"')
        + "settle_seconds = 1e-7\noptions.beam = 5\n"
        + watch("b", after="keep", archive="").replace('archive = ""\n', "")
    )
    text = show(found)
    (home / "elsewhere").mkdir()
    (home / "elsewhere/again.toml").write_text(text)
    assert read_config(str(home / "elsewhere/again.toml")) == effective(found)
    assert show(effective(found)) == text
    assert "\u202e" not in text
    document = tomli.loads(text)
    for section in Settings.__struct_fields__:
        assert section in document
    assert set(document["watch"][0]) == set(found.watch[0].__struct_fields__) - {"only"}


def test_a_folder_that_is_no_text_is_still_shown(home: Path) -> None:
    """Bytes that are no UTF-8 appear escaped, and the whole stays TOML."""
    found = read(TALKS)
    odd = type(found.watch[0])(**{**_fields(found.watch[0]), "outbox": b"/x/\xff\n"})
    text = show(Settings(**{**_fields(found), "watch": (odd,)}))
    assert tomli.loads(text)["watch"][0]["outbox"] == "/x/\\udcff\\n"


# --- folders


def test_missing_folders_are_made(home: Path) -> None:
    """All folders of the service and its watches are there afterwards; twice does no harm."""
    found = read(TALKS)
    umask = os.umask(0o027)
    try:
        assert make_folders(found) == []
    finally:
        os.umask(umask)
    assert make_folders(found) == []
    made = {path.name for path in home.iterdir() if path.is_dir()}
    assert made == {"state", "logs", "in", "out", "archive", "failed"}
    assert (home / "in").stat().st_mode & 0o777 == 0o750


def test_no_folder_is_made_for_a_mount_that_is_not_there(home: Path) -> None:
    """What would be hidden by the mount, once it comes, is not made."""
    assert make_folders(read(TALKS + "require_mount = true\n")) == []
    assert {path.name for path in home.iterdir() if path.is_dir()} == {"state", "logs"}


def test_a_folder_that_can_not_be_made(home: Path) -> None:
    """A file in the way is said in a sentence, and the others are still made."""
    (home / "out").write_bytes(b"")
    (found,) = make_folders(read(TALKS))
    assert found.startswith(
        f"the outbox folder of watch talks ({home}/out) can not be made: File exists;"
    )
    assert (home / "failed").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_without_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the service's user can not write to is said before the first drop needs it."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        os.chmod(folder, 0o755)
        monkeypatch.chdir(folder)
        found = read(TALKS)
        assert make_folders(found) == []
        os.chmod("out", 0o777)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setresuid(65534, 65534, 65534)
                os.write(writer, "\n".join(make_folders(found)).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            said = answer.read()
        monkeypatch.undo()
    assert f"the failed folder of watch talks ({folder}/failed) can not be read and written" in said
    assert "outbox" not in said
