"""The log on a stream and in a journal, which here is a real datagram socket."""

import io
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.tell.journal import JournalHandler, LineHandler, encode_entry, is_journal, setup

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\S")
FORGED = "clip\n2026-11-21 12:00:00 ERROR   the disk is gone\n<0>kernel: PANIC\x1b[2J\u202egpj"
log = logging.getLogger("penstock.tell.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, LineHandler | JournalHandler):
            root.removeHandler(handler)
            handler.close()
    logging.getLogger("penstock").setLevel(logging.NOTSET)


@pytest.fixture
def stream(room: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A file that JOURNAL_STREAM says is the journal's."""
    with open(os.path.join(room, b"stderr"), "w+", encoding="utf-8") as file:
        facts = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
        yield file


@pytest.fixture
def address(room: bytes) -> str:
    return os.fsdecode(room) + "/j"


@pytest.fixture
def journal(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(5)
        yield listener


def log_a_failure() -> None:
    try:
        int(FORGED)
    except ValueError as error:
        error.add_note(FORGED)
        log.exception("the stage failed")


def parsed(entry: bytes) -> dict[str, str]:
    """A journal entry as journald reads it."""
    fields: dict[str, str] = {}
    while entry:
        line, _newline, rest = entry.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest.startswith(b"\n")
            rest = rest[1:]
        fields[key.decode()] = value.decode()
        entry = rest
    return fields


def test_lines_have_time_level_and_message() -> None:
    """Outside the journal a message is one line with local time and level."""
    out = io.StringIO()
    setup("info", out)
    log.info("ready with %d watches", 3)
    log.debug("not asked for")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    ready with 3 watches\n", out.getvalue()
    )


def test_a_file_name_forges_no_line() -> None:
    """A name with newlines and escapes stays on the message's own line, harmless."""
    out = io.StringIO()
    setup("info", out)
    log.info("seen %s", FORGED)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().rstrip("\n").isprintable()


def test_a_traceback_is_prefixed_lines() -> None:
    """Each line of a traceback has the message's prefix and a bar, also a forged one."""
    out = io.StringIO()
    setup("info", out)
    log_a_failure()
    first, *trace = out.getvalue().splitlines()
    assert first.endswith("ERROR   the stage failed")
    assert all(re.fullmatch(r".{19} ERROR   \| .*", line) for line in trace)
    assert len(trace) >= 4


@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_any_message_is_well_formed_lines(message: str, name: str) -> None:
    """Whatever text is logged, every line of the output begins as a log line does."""
    out = io.StringIO()
    handler = LineHandler(out)
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, f".{message} %s", (name,), None)
    handler.handle(record)
    assert all(LINE.match(line) for line in out.getvalue().split("\n")[:-1])


def test_a_slip_in_a_log_call_costs_nothing() -> None:
    """A message whose arguments do not fit is still logged."""
    out = io.StringIO()
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, "%d files", ("many",), None)
    LineHandler(out).handle(record)
    assert "%d files ('many',)" in out.getvalue()


def test_a_closed_or_poor_stream_raises_nothing() -> None:
    """A stream that is closed, or has a small alphabet, stops no caller."""
    raw = io.BytesIO()
    poor = io.TextIOWrapper(raw, encoding="ascii")
    setup("info", poor)
    log.info("seen 会議.mp4")
    assert b"seen \\u4f1a\\u8b70.mp4" in raw.getvalue()
    poor.close()
    log.info("nobody reads this")


def test_setup_again_replaces_itself() -> None:
    """A second call, as after a reload, takes over level and stream and doubles no line."""
    first, second = io.StringIO(), io.StringIO()
    setup("warning", first)
    log.info("quiet")
    setup("debug", second)
    log.debug("loud")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_libraries_are_heard_from_warnings_on() -> None:
    """A library's warning goes through the same escaping; its chatter does not appear."""
    out = io.StringIO()
    setup("debug", out)
    logging.getLogger("watchdog.observers").info("chatter")
    logging.getLogger("watchdog.observers").warning("overflow in %s", FORGED)
    assert out.getvalue().count("\n") == 1


def test_the_journal_gets_fields(journal: socket.socket, address: str, stream: TextIO) -> None:
    """Under systemd an entry has priority, code and the job's own fields, and stderr nothing."""
    setup("info", stream, journal_socket=address)
    extra = {"watch": "talks", "job": 7, "event": "settled", "file": b"a\xff.wav"}
    log.warning("settled", extra=extra)
    fields = parsed(journal.recv(65536))
    assert fields["MESSAGE"] == "settled"
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "penstock"
    assert fields["CODE_FUNC"] == "test_the_journal_gets_fields"
    assert fields["CODE_FILE"].endswith("test_journal.py")
    assert int(fields["CODE_LINE"]) > 0
    assert fields["PENSTOCK_WATCH"] == "talks"
    assert fields["PENSTOCK_JOB"] == "7"
    assert fields["PENSTOCK_EVENT"] == "settled"
    assert fields["PENSTOCK_FILE"] == r"a\udcff.wav"
    log.info("no fields")
    assert not [key for key in parsed(journal.recv(65536)) if key.startswith("PENSTOCK_")]
    stream.seek(0)
    assert stream.read() == ""


def test_a_file_name_forges_no_field(journal: socket.socket, address: str, stream: TextIO) -> None:
    """A hostile name in message and fields adds no field and changes no priority."""
    setup("info", stream, journal_socket=address)
    log.info("seen %s", "x\nPRIORITY=0\nMESSAGE=gone", extra={"file": b"x\nPRIORITY=0"})
    entry = journal.recv(65536)
    assert entry.count(b"\nPRIORITY=") == 1
    assert parsed(entry)["PRIORITY"] == "6"
    assert parsed(entry)["PENSTOCK_FILE"] == r"x\nPRIORITY=0"


def test_a_traceback_is_one_entry(journal: socket.socket, address: str, stream: TextIO) -> None:
    """A traceback travels inside its message's entry, line by line behind a bar."""
    setup("info", stream, journal_socket=address)
    log_a_failure()
    first, *trace = parsed(journal.recv(65536))["MESSAGE"].split("\n")
    assert first == "the stage failed"
    assert all(line.startswith("| ") and line.isprintable() for line in trace)


@given(st.lists(st.tuples(st.from_regex(r"[A-Z][A-Z_]{0,9}", fullmatch=True), st.text())))
def test_entries_can_be_read_back(entry: list[tuple[str, str]]) -> None:
    """What the native form says is what was meant, newlines included."""
    assert parsed(encode_entry(entry)) == dict(entry)


def test_a_journal_that_is_gone_falls_back(address: str, stream: TextIO, room: bytes) -> None:
    """While journald's socket is missing, lines with their priority go to stderr."""
    setup("info", stream, journal_socket=address)
    log.error("no journal for %s", FORGED)
    stream.seek(0)
    text = stream.read()
    assert text.startswith("<3>no journal for clip")
    assert text.count("\n") == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(5)
        log.error("back")
        assert parsed(listener.recv(65536))["MESSAGE"] == "back"


def test_a_stopped_journald_blocks_nobody(
    journal: socket.socket, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With journald's socket and its stream both full, logging goes on and loses lines."""
    reader, writer = os.pipe()
    facts = os.fstat(writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
    with os.fdopen(reader, "rb", buffering=0) as pipe, os.fdopen(writer, "w") as stream:
        assert is_journal(stream)
        setup("info", stream, journal_socket=address)
        for number in range(1000):
            log.info("line %d %s", number, "x" * 300)
        assert pipe.read(4).startswith(b"<6>l")
        assert b"line 0 " in journal.recv(65536)
        setup("info", io.StringIO())


def test_huge_messages_fit_a_datagram(journal: socket.socket, address: str, stream: TextIO) -> None:
    """A message without end is cut, not lost."""
    setup("info", stream, journal_socket=address)
    log.info("会" * 1_000_000)
    assert parsed(journal.recv(300_000))["MESSAGE"].endswith("…")
