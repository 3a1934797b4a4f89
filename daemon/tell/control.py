"""The control socket: how a command on this machine talks to the running daemon.

One connection carries one command and one reply, each one line of JSON. The socket lies in the
state folder, mode 0600, and only its owner and root are heard.
"""

import errno
import logging
import os
import queue
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from daemon.tell.harmless import harmless, harmless_text
from pipeline.core.errors import BusyError, PenstockError
from pipeline.core.text import shown

log = logging.getLogger("penstock.tell.control")

NAME = b"control.sock"
COMMAND_LIMIT = 64 * 1024  # bytes of one command
REPLY_LIMIT = 16 * 1024 * 1024
READ_SECONDS = 5.0  # for a whole command to arrive, or a reply to leave
ADDRESS_LIMIT = 107  # bytes in sockaddr_un, without the closing zero
SHORT_OF_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asks for. Bytes in `args` travel as base64; see path_of()."""

    name: str
    args: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon answers: whether it did it, a sentence for people, facts for programs."""

    ok: bool
    text: str
    data: dict[str, Any] = {}


class Request:
    """A command on its way through the service's event queue and back."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._answers: queue.SimpleQueue[Reply] = queue.SimpleQueue()

    def answer(self, reply: Reply) -> None:
        """Give the reply; never blocks. Only the first one counts."""
        self._answers.put(reply)

    def wait(self, timeout: float) -> Reply:
        """The reply, or one that says that none came within `timeout` seconds."""
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return Reply(ok=False, text=f"the daemon did not answer within {timeout:g} s")


def path_of(command: Command, key: str) -> bytes:
    """A path among the command's args; PenstockError if it is missing or not base64."""
    try:
        return msgspec.convert(command.args.get(key), bytes)
    except msgspec.ValidationError:
        raise PenstockError(f"the command {shown(command.name)} needs a path as {key}") from None


class ControlServer:
    """Listens in a thread of its own and calls `ask` there, one command at a time.

    `ask` may raise PenstockError, and must return in bounded time: stop() waits for it.
    """

    def __init__(self, folder: bytes, ask: Callable[[Command], Reply]) -> None:
        self._folder = folder
        self._ask = ask
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._open: socket.socket | None = None  # the connection that is being served

    def start(self) -> None:
        """Bind and listen; replaces what a killed daemon left, BusyError if another one answers."""
        self._stopping.clear()
        self._listener = _bound(self._folder)
        self._thread = threading.Thread(
            target=self._serve, args=(self._listener,), name="control", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, end the thread and remove the socket; harmless if never started."""
        listener, thread = self._listener, self._thread
        if listener is None or thread is None:
            return
        self._listener = self._thread = None
        self._stopping.set()
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self._folder, NAME))
        with suppress(OSError):  # wakes accept()
            listener.shutdown(socket.SHUT_RDWR)
        with self._guard, suppress(OSError):  # wakes a read from a silent client
            if self._open is not None:
                self._open.shutdown(socket.SHUT_RD)
        thread.join()
        listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                client, _address = listener.accept()
            except OSError as error:
                if error.errno in SHORT_OF_MEANS:
                    self._stopping.wait(1.0)  # accept() would fail again at once
                continue
            with client:
                self._converse(client)

    def _converse(self, client: socket.socket) -> None:
        with self._guard:
            if self._stopping.is_set():
                return
            self._open = client
        try:
            self._reply(client)
        except OSError as error:
            log.debug("a control connection broke: %s", error)
        finally:
            with self._guard:
                self._open = None

    def _reply(self, client: socket.socket) -> None:
        reply = self._answer(client)
        client.settimeout(READ_SECONDS)
        client.sendall(_encoded(reply))

    def _answer(self, client: socket.socket) -> Reply:
        try:
            line = _read_line(client, COMMAND_LIMIT, READ_SECONDS)
            command = msgspec.json.decode(line, type=Command)
        except TimeoutError:
            return Reply(ok=False, text=f"no whole command came within {READ_SECONDS:g} s")
        except msgspec.DecodeError as error:
            return Reply(ok=False, text=f"not a command: {error}")
        # Only now: a client that is cut off while it writes would never read why.
        uid = _peer_uid(client)
        if not may_command(uid, os.geteuid()):
            log.warning("user %d may not command this daemon", uid)
            return Reply(ok=False, text="only root and the service's own user may do this")
        try:
            return self._ask(command)
        except PenstockError as error:
            return Reply(ok=False, text=str(error))
        except Exception as error:
            log.exception("the command %s failed", shown(command.name))
            return Reply(ok=False, text=f"the daemon failed at this: {error!r}; its log has more")


def send(folder: bytes, command: Command, timeout: float = 10.0) -> Reply:
    """Ask the daemon of this state folder; `timeout` in seconds for everything together.

    PenstockError if no daemon runs there, it may not be asked, or it does not answer.
    """
    line = msgspec.json.encode(command) + b"\n"
    if len(line) > COMMAND_LIMIT:
        raise PenstockError("the command is too long", "name fewer files at once")
    end = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout)
        try:
            with _address(folder) as address:
                link.connect(address)
            link.sendall(line)
            return msgspec.json.decode(
                _read_line(link, REPLY_LIMIT, end - time.monotonic()), type=Reply
            )
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise PenstockError(
                "no daemon is running on this state folder",
                f"start one with `penstock run`; the folder is {shown(folder)}",
            ) from None
        except (TimeoutError, BlockingIOError):
            raise PenstockError(
                f"the daemon did not answer within {timeout:g} s",
                "see `penstock status` and its log for what it is busy with",
            ) from None
        except PermissionError:
            raise PenstockError(
                "this user may not command the daemon", "use its own user, or sudo"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise PenstockError(
                f"the daemon went away before it answered: {error}", "see its log"
            ) from error


def may_command(uid: int, own: int) -> bool:
    """Whether a user is heard by a daemon that runs as `own`."""
    return uid in (0, own)


def _encoded(reply: Reply) -> bytes:
    # Lines are a reply's own; whatever else a name brought along is escaped.
    text = "\n".join(harmless_text(line) for line in reply.text.split("\n"))
    data = harmless(reply.data)
    return msgspec.json.encode(Reply(ok=reply.ok, text=text, data=data)) + b"\n"


def _read_line(link: socket.socket, limit: int, seconds: float) -> bytes:
    """Bytes up to the first newline; TimeoutError after `seconds` however they drip in."""
    end = time.monotonic() + seconds
    line = bytearray()
    while not line.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        link.settimeout(left)
        block = link.recv(min(65536, limit + 1 - len(line)))
        if not block:
            raise ConnectionResetError(errno.ECONNRESET, "the other end left")
        line += block
        if len(line) > limit:
            raise msgspec.DecodeError(f"longer than {limit} bytes")
    return bytes(line)


def _peer_uid(client: socket.socket) -> int:
    form = "iII"  # struct ucred: pid, uid, gid
    raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form))
    uid: int = struct.unpack(form, raw)[1]
    return uid


@contextmanager
def _address(folder: bytes) -> Iterator[bytes]:
    """The socket's address; through a descriptor of the folder where its path is too long."""
    path = os.path.join(folder, NAME)
    if len(path) <= ADDRESS_LIMIT:
        yield path
        return
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield b"/proc/self/fd/%d/%s" % (fd, NAME)
    finally:
        os.close(fd)


def _bound(folder: bytes) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind: the file is never open to others
        with _address(folder) as address:
            _clear_stale(os.path.join(folder, NAME), address)
            listener.bind(address)
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


def _clear_stale(path: bytes, address: bytes) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PenstockError(f"{shown(path)} is not a socket", "move it out of the state folder")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: it lives
    raise BusyError(
        f"another daemon answers on {shown(path)}", "stop it, or use another state folder"
    )
