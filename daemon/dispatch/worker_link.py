"""The local executor: one worker process in its own session, fed and heard over pipes."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from daemon.dispatch.executor import ExecutorEvent, Gone, Heard
from daemon.settings import WorkerSettings
from pipeline.core.contract import Cancel, Order, Stop, ToWorker, decode_answer, encode_line
from pipeline.core.errors import LinkError
from pipeline.core.memory_settings import MemorySettings
from pipeline.core.text import shown

log = logging.getLogger("penstock.worker")

TAIL_LINES = 100
LINE_BYTES = 16 * 1024  # a longer printed line is cut


class WorkerLink:
    """Starts, feeds, hears and kills the worker. Call it from one thread only, the loop's:

    the kernel kills the worker when the thread that started it ends.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        post: Callable[[ExecutorEvent], None],
        *,
        memory: MemorySettings | None = None,
        learned: bytes = b"",
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.generation = 0
        self._settings = settings
        self._post = post
        self._device = "auto"
        self._memory = msgspec.json.encode(memory or MemorySettings()).decode()
        self._learned = os.fsdecode(learned or b":memory:")
        self._environment = environment
        self._command = tuple(command) or (
            settings.python or sys.executable,
            "-m",
            "pipeline.worker",
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: int | None = None
        self._threads: list[threading.Thread] = []

    @property
    def up(self) -> bool:
        """Whether a worker was started and its end has not been told yet."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The worker's process id, which is its group's too."""
        return self._process.pid if self.up and self._process else None

    def start(self, device: str = "auto") -> None:
        """Start a worker process; its Hello or its end follows as an event.

        With "cpu" it can not see the card, whatever a library in it may try.
        """
        if self.up:
            return
        self._device = device
        self._hang_up()
        order_end, orders = os.pipe2(os.O_CLOEXEC)
        answers, answer_end = os.pipe2(os.O_CLOEXEC)
        self.generation += 1
        try:
            self._process = subprocess.Popen(
                self._arguments(order_end, answer_end),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(order_end, answer_end),
                start_new_session=True,
                env=self._child_environment(),
            )
        except OSError as error:
            os.close(orders)
            os.close(answers)
            raise LinkError(
                f"the worker can not be started: {error}", "check [worker] python"
            ) from error
        finally:
            os.close(order_end)
            os.close(answer_end)
        self._orders = orders
        self._listen(self._process, answers)

    def submit(self, order: Order) -> None:
        """Send an order; LinkError if the worker has hung up."""
        self._send(order)

    def cancel(self, job: int) -> None:
        """Ask for a job to stop; a worker that is gone has stopped it already."""
        with contextlib.suppress(LinkError):
            self._send(Cancel(job=job))

    def stop(self) -> None:
        """Ask the worker to leave."""
        with contextlib.suppress(LinkError):
            self._send(Stop())

    def kill(self) -> None:
        """SIGKILL for the worker and every process it started."""
        if self.up and self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, timeout: float) -> None:
        """Kill what is left and join the threads."""
        self.kill()
        self._hang_up()
        for thread in self._threads:
            thread.join(timeout)

    def _arguments(self, order_end: int, answer_end: int) -> list[str]:
        return [
            *self._command,
            "--orders", str(order_end),
            "--answers", str(answer_end),
            "--lanes", str(self._settings.lanes),
            "--parent", str(os.getpid()),
            "--device", self._device,
            "--memory", self._memory,
            "--learned", self._learned,
        ]  # fmt: skip

    def _child_environment(self) -> dict[str, str]:
        env = dict(os.environ if self._environment is None else self._environment)
        env["PYTHONUNBUFFERED"] = "1"
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts, so that both mean the same card
        env.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        if self._device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        return env

    def _send(self, message: ToWorker) -> None:
        if self._orders is None:
            raise LinkError("the worker is not running")
        data = memoryview(encode_line(message))
        try:
            while data:
                data = data[os.write(self._orders, data) :]
        except OSError as error:
            raise LinkError(f"the worker has hung up: {error.strerror}") from error

    def _hang_up(self) -> None:
        if self._orders is not None:
            os.close(self._orders)
            self._orders = None

    def _listen(self, process: subprocess.Popen[bytes], answers: int) -> None:
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        printed = threading.Thread(
            target=_log_lines,
            args=(process, tail),
            name=f"worker-log-{self.generation}",
            daemon=True,
        )
        heard = threading.Thread(
            target=self._hear, args=(process, answers, self.generation, printed, tail),
            name=f"worker-link-{self.generation}", daemon=True,
        )  # fmt: skip
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads += [printed, heard]
        printed.start()
        heard.start()

    def _hear(
        self,
        process: subprocess.Popen[bytes],
        answers: int,
        generation: int,
        printed: threading.Thread,
        tail: deque[str],
    ) -> None:
        with os.fdopen(answers, "rb") as lines:
            for line in lines:
                try:
                    message = decode_answer(line)
                except msgspec.MsgspecError as error:
                    # A worker that garbles its answers can not be trusted with a file.
                    log.error("the worker said something unreadable and is replaced: %s", error)
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    break
                self._post(Heard(generation=generation, message=message))
        # The answers are closed: it is dead or dying. Anything else of its group goes too.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        printed.join(1.0)
        self._post(Gone(generation=generation, status=status, tail=tuple(tail)))


def _log_lines(process: subprocess.Popen[bytes], tail: deque[str]) -> None:
    assert process.stdout
    with process.stdout as pipe:
        while line := pipe.readline(LINE_BYTES):
            text = shown(line.rstrip(b"\n"))
            if text:
                tail.append(text)
                log.info("%s", text)
