"""What systemd hears, over a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from daemon.tell.notify import Notifier, child_environment, watchdog_seconds

HOSTILE = (
    "x\nWATCHDOG=trigger",
    "clip\nSTOPPING=1\n.mp4",
    "a\r\nMAINPID=1",
    "\u2028READY=1\x00\x1b[2J",
    "bad\udcff.mp4",
)


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, room: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        if request.param == "path":
            address = os.fsdecode(room) + "/n"
            listener.bind(address)
        else:
            address = f"@penstock-test-{os.getpid()}"
            listener.bind("\0" + address[1:])
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield listener


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    notifier = Notifier()
    yield notifier
    notifier.close()


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(65536).decode().split("\n")


def test_each_call_is_its_assignment(manager: socket.socket, notifier: Notifier) -> None:
    """Every call says to systemd what its name says, with its status line."""
    notifier.ready("3 watches")
    assert heard(manager) == ["READY=1", "STATUS=3 watches"]
    notifier.status("idle")
    assert heard(manager) == ["STATUS=idle"]
    notifier.watchdog()
    assert heard(manager) == ["WATCHDOG=1"]
    notifier.stopping()
    assert heard(manager) == ["STOPPING=1"]
    notifier.extend(2.5)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=2500000"]
    notifier.reloading("reading the config")
    reloading, moment, status = heard(manager)
    assert (reloading, status) == ("RELOADING=1", "STATUS=reading the config")
    assert int(moment.removeprefix("MONOTONIC_USEC=")) > 0


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_name_adds_no_assignment(
    manager: socket.socket, notifier: Notifier, name: str
) -> None:
    """A hostile name stays inside the one STATUS line, in every call that takes a text."""
    for say, lines in (
        (notifier.status, 1),
        (notifier.ready, 2),
        (notifier.stopping, 2),
        (notifier.reloading, 3),
    ):
        say(f"processing {name}")
        message = manager.recv(65536)
        assert len(message.split(b"\n")) == lines
        assert message.split(b"\n")[-1].startswith(b"STATUS=processing ")
        assert not {char for char in message.decode() if char < " "} - {"\n"}


def test_other_alphabets_reach_systemd(manager: socket.socket, notifier: Notifier) -> None:
    """A status with letters beyond Latin-1 arrives as UTF-8."""
    notifier.status("läuft: 会議.mp4 «5»")
    assert heard(manager) == ["STATUS=läuft: 会議.mp4 «5»"]


def test_long_names_are_cut(manager: socket.socket, notifier: Notifier) -> None:
    """A status line has a bounded length."""
    notifier.status("x" * 100_000)
    assert len(heard(manager)[0]) < 500


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside systemd every call is a no-op."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("up")
    notifier.watchdog()
    notifier.close()


def test_a_manager_that_is_gone_is_told_of_once(
    room: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing socket raises nothing, is logged once, and is used again when it is back."""
    address = os.fsdecode(room) + "/n"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    notifier.status("one")
    notifier.status("two")
    assert caplog.text.count("systemd can not be told") == 1
    for text in ("three", "four"):  # the second time the old connection is dead
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(address)
            listener.settimeout(5)
            notifier.status(text)
            assert listener.recv(4096) == f"STATUS={text}".encode()
        os.unlink(address)
    notifier.close()


def test_a_full_socket_blocks_nobody(
    manager: socket.socket, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that does not read makes messages wait a bounded time, and loses them then."""
    monkeypatch.setattr("daemon.tell.notify.SEND_SECONDS", 0.01)
    for _number in range(2000):
        notifier.watchdog()
        if notifier._failing:
            break
    assert notifier._failing
    manager.setblocking(False)
    with suppress(BlockingIOError):
        while manager.recv(4096):
            pass
    notifier.status("heard again")
    assert manager.recv(4096) == b"STATUS=heard again"


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "", 30.0),
        ("30000000", "own", 30.0),
        ("30000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("soon", "", None),
        ("30000000", "me", None),
    ],
)
def test_the_watchdog_is_ours_only_if_it_says_so(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    """The limit is taken from WATCHDOG_USEC, and only if WATCHDOG_PID is absent or this process."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert watchdog_seconds() == seconds
    assert Notifier().watchdog_seconds == seconds


def test_children_do_not_hear_of_the_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child's environment has no service manager's variables, and everything else."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PENSTOCK_TEST", "kept")
    child = child_environment()
    assert child["PENSTOCK_TEST"] == "kept"
    assert not [name for name in child if name.startswith(("NOTIFY", "WATCHDOG", "LISTEN"))]
    assert os.environ["NOTIFY_SOCKET"] == "1"
