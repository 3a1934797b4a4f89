"""The control socket, with real connections."""

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import pytest

from daemon.tell.control import (
    COMMAND_LIMIT,
    NAME,
    Command,
    ControlServer,
    Reply,
    Request,
    may_command,
    path_of,
    send,
)
from pipeline.core.errors import BusyError, PenstockError


def echo(command: Command) -> Reply:
    return Reply(ok=True, text=command.name, data=command.args)


@contextmanager
def served(folder: bytes, ask: Callable[[Command], Reply] = echo) -> Iterator[ControlServer]:
    server = ControlServer(folder, ask)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def spoken(folder: bytes, line: bytes) -> bytes:
    """What the daemon answers to these bytes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(10)
        link.connect(os.path.join(folder, NAME))
        link.sendall(line)
        return link.makefile("rb").readline()


def test_a_command_gets_its_reply(room: bytes) -> None:
    """A command with arguments arrives whole, and its reply comes back, time after time."""
    with served(room):
        for number in range(3):
            reply = send(room, Command(name="retry", args={"job": number}))
            assert reply == Reply(ok=True, text="retry", data={"job": number})


def test_a_path_travels_as_bytes(room: bytes) -> None:
    """A name that is no text reaches the daemon byte for byte."""
    name = b"bad\xff\n.wav"
    with served(room, lambda command: Reply(ok=path_of(command, "path") == name, text="")):
        assert send(room, Command(name="why", args={"path": name})).ok
        reply = send(room, Command(name="why", args={"path": "no base64!"}))
        assert not reply.ok
        assert "needs a path" in reply.text


def test_a_hostile_name_in_a_reply_is_escaped(room: bytes) -> None:
    """A reply may have lines, but a name in it has no escape sequence and breaks no JSON."""
    answer = Reply(ok=True, text="a\n\x1b[2Jb\udcff", data={"file": b"x\xff\n"})
    with served(room, lambda _command: answer):
        reply = send(room, Command(name="why"))
    assert reply.text == "a\n\\x1b[2Jb\\udcff"
    assert reply.data == {"file": r"x\udcff\n"}


def test_the_service_loop_answers_through_a_queue(room: bytes) -> None:
    """A request crosses the loop's queue and the loop's reply comes back."""
    events: SimpleQueue[Request] = SimpleQueue()

    def ask(command: Command) -> Reply:
        request = Request(command)
        events.put(request)
        return request.wait(10)

    def loop() -> None:
        request = events.get(timeout=10)
        request.answer(Reply(ok=True, text=f"{request.command.name} done"))
        request.answer(Reply(ok=False, text="twice"))

    thread = threading.Thread(target=loop)
    thread.start()
    with served(room, ask):
        assert send(room, Command(name="pause")).text == "pause done"
    thread.join()


def test_a_busy_loop_is_said(room: bytes) -> None:
    """A request that nobody answers becomes a reply that says so."""
    reply = Request(Command(name="pause")).wait(0.01)
    assert not reply.ok
    assert "did not answer" in reply.text


def test_no_daemon_is_a_plain_error(room: bytes) -> None:
    """Without a daemon, or after one was killed, the error says that none is running."""
    with pytest.raises(PenstockError, match="no daemon is running on this state folder"):
        send(room, Command(name="pause"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(os.path.join(room, NAME))
    with pytest.raises(PenstockError, match="no daemon is running on this state folder"):
        send(room, Command(name="pause"))


def test_a_killed_daemons_socket_is_replaced(room: bytes) -> None:
    """The socket that a killed daemon left behind does not stop the next one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(os.path.join(room, NAME))
    with served(room):
        assert send(room, Command(name="pause")).ok


def test_a_living_daemon_is_not_replaced(room: bytes) -> None:
    """A second daemon on the same folder is refused, and the first still answers."""
    with served(room):
        with pytest.raises(BusyError, match="another daemon"):
            ControlServer(room, echo).start()
        assert send(room, Command(name="pause")).ok


def test_another_file_in_its_place_is_left_alone(room: bytes) -> None:
    """A file that is no socket is not deleted."""
    with open(os.path.join(room, NAME), "wb") as file:
        file.write(b"mine")
    with pytest.raises(PenstockError, match="is not a socket"):
        ControlServer(room, echo).start()
    with open(os.path.join(room, NAME), "rb") as file:
        assert file.read() == b"mine"


def test_only_the_owner_may_open_it(room: bytes) -> None:
    """The socket has mode 0600 whatever the umask is, and is gone after stop."""
    before = os.umask(0)
    try:
        with served(room):
            mode = os.stat(os.path.join(room, NAME)).st_mode
    finally:
        os.umask(before)
    assert stat.S_IMODE(mode) == 0o600
    assert os.listdir(room) == []


def test_a_long_state_folder_works(room: bytes) -> None:
    """A folder whose path is too long for a socket address serves like any other."""
    folder = os.path.join(room, b"d" * 200)
    os.mkdir(folder)
    fds = len(os.listdir("/proc/self/fd"))
    for _round in range(2):
        with served(folder):
            assert send(folder, Command(name="pause")).ok
    assert os.listdir(folder) == []
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"name": 5}\n', b"x" * (COMMAND_LIMIT + 1)]
)
def test_nonsense_gets_a_reply(room: bytes, line: bytes) -> None:
    """What is no command is answered as such, and the next command works."""
    with served(room):
        assert b"not a command" in spoken(room, line)
        assert send(room, Command(name="pause")).ok


def test_a_command_too_long_is_refused_before_it_leaves(room: bytes) -> None:
    """The client says that a command is too long instead of losing its connection."""
    with pytest.raises(PenstockError, match="too long"):
        send(room, Command(name="retry", args={"all": "x" * COMMAND_LIMIT}))


def test_silent_and_rude_clients_cost_only_time(
    room: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that says nothing, drips, or leaves in the middle does not stop the next one."""
    monkeypatch.setattr("daemon.tell.control.READ_SECONDS", 0.1)
    with served(room):
        assert b"no whole command" in spoken(room, b'{"name"')
        for line in (b"", b'{"na', b'{"name": "pause"}\n'):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.connect(os.path.join(room, NAME))
                link.sendall(line)
        assert send(room, Command(name="pause")).ok


def test_a_failing_command_is_answered(room: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A service error becomes a reply, an unforeseen one is logged too; both are survived."""

    def ask(command: Command) -> Reply:
        if command.name == "retry":
            raise PenstockError("job 9 is not failed", "see `penstock jobs`")
        raise ZeroDivisionError("odd")

    with served(room, ask):
        reply = send(room, Command(name="retry"))
        assert (reply.ok, reply.text) == (False, "job 9 is not failed (see `penstock jobs`)")
        assert "failed at this: ZeroDivisionError" in send(room, Command(name="odd")).text
        assert "the command odd failed" in caplog.text


def test_stop_does_not_wait_for_a_silent_client(room: bytes) -> None:
    """Stopping while a client is connected and silent ends the thread; so does stopping twice."""
    with served(room) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.connect(os.path.join(room, NAME))
            server.stop()
            link.settimeout(4)  # less than READ_SECONDS
            link.recv(100)
        server.stop()


def test_a_reply_in_progress_still_arrives_at_stop(room: bytes) -> None:
    """A command that is being carried out when the daemon stops gets its answer."""
    asked, go = threading.Event(), threading.Event()

    def ask(_command: Command) -> Reply:
        asked.set()
        assert go.wait(10)
        return Reply(ok=True, text="late")

    replies: list[Reply] = []
    server = ControlServer(room, ask)
    server.start()
    client = threading.Thread(target=lambda: replies.append(send(room, Command(name="pause"))))
    client.start()
    assert asked.wait(10)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    go.set()
    stopper.join()
    client.join()
    assert replies == [Reply(ok=True, text="late")]


def test_a_daemon_that_does_not_answer_is_a_plain_error(room: bytes) -> None:
    """A client waits no longer than it was told to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as frozen:
        frozen.bind(os.path.join(room, NAME))
        frozen.listen(1)
        with pytest.raises(PenstockError, match="did not answer within"):
            send(room, Command(name="pause"), 0.05)


def test_only_root_and_the_own_user_are_heard() -> None:
    """Another user may not command the daemon, root and its own user may."""
    assert may_command(0, 1000)
    assert may_command(1000, 1000)
    assert not may_command(1001, 1000)
    assert not may_command(1000, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_by_the_kernels_word(
    room: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Another user who reaches the socket is told who may; its command is not carried out."""
    words: list[Command] = []

    def ask(command: Command) -> Reply:
        words.append(command)
        return echo(command)

    program = (
        "import os, socket, sys; os.setgroups([]); os.setresuid(65534, 65534, 65534);"
        "link = socket.socket(socket.AF_UNIX); link.connect('control.sock');"
        'link.sendall(b\'{"name": "pause"}\\n\');'
        "sys.stdout.write(link.makefile().readline())"
    )
    with served(room, ask):
        os.chmod(os.path.join(room, NAME), 0o666)
        os.chmod(room, 0o711)
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=room,
            capture_output=True,
            check=True,
            timeout=30,
        )
    assert b"only root and the service's own user" in done.stdout
    assert words == []
    assert "user 65534 may not command" in caplog.text
