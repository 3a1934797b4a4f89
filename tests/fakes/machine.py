"""A small Debian with a real systemd in a container, and Penstock installed as its service.

Needs root, debootstrap and systemd-nspawn, else the tests that want it are skipped. The system is
made anew (a minute and a network), or taken from the folder in PENSTOCK_TEST_ROOT, which is left
as it was.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
SUITE, PYTHON = "bookworm", (3, 11)
PACKAGES = "systemd,systemd-sysv,dbus,python3,procps"
FILES = (
    "etc/systemd/system/penstock.service",
    "etc/sysusers.d/penstock.conf",
    "etc/tmpfiles.d/penstock.conf",
)
PATIENCE_S = 60.0
EVERY_S = 0.1
UP = ("running\n", "degraded\n")
# Stands in for the installed environment: the container's Python with this one's packages.
COMMAND = """#!/bin/sh
export PYTHONPATH=/opt/penstock/src:/opt/penstock/packages
exec /usr/bin/python3 -m daemon.cli.main "$@"
"""
CONFIG = """
[daemon]
state_dir = "/var/lib/penstock"
log_dir = "/var/log/penstock"
[queue]
disk_low_gb = 0.0
disk_stop_gb = 0.0
[models]
offline = true
[[watch]]
name = "drill"
path = "/srv/penstock/in"
recipe = "noop"
outbox = "/srv/penstock/out"
archive = "/srv/penstock/done"
failed = "/srv/penstock/failed"
settle_seconds = 0.3
incomplete_seconds = 0.3
options = {{ seconds = {seconds} }}
"""


class Machine:
    """A booted container; everything is asked of it by nsenter."""

    def __init__(self, init: int) -> None:
        self._inside = (
            "nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-C", "--",
            "env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )  # fmt: skip

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Begin a bash script inside; its stdin is a pipe."""
        return subprocess.Popen(
            [*self._inside, "bash", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def sh(self, script: str) -> str:
        """Run a bash script inside; what it printed."""
        out, _none = self.start(script).communicate()
        return out.decode(errors="backslashreplace")

    def has(self, path: str) -> bool:
        return self.sh(f"test -e '{path}' && echo yes") == "yes\n"

    def property(self, name: str) -> str:
        return self.sh(f"systemctl show penstock -p {name} --value").strip()

    def journal(self) -> str:
        return self.sh("journalctl -u penstock --no-pager -o cat")

    def kill(self, sign: str) -> None:
        pid = int(self.property("MainPID"))
        assert pid > 1  # 0 between two starts, and `kill 0` would be ourselves
        self.sh(f"kill -{sign} {pid}")

    def configure(self, *, seconds: float) -> None:
        self.sh(f"cat >/etc/penstock/config.toml <<'END'{CONFIG.format(seconds=seconds)}END\n")

    def wait_for(self, true: Callable[[], bool]) -> None:
        """Until it is true; a failure shows the journal."""
        until = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < until, self.journal()
            time.sleep(EVERY_S)


def booted(folder: Path) -> Iterator[Machine]:
    """A machine that is shut down at the end; skips where there can be none."""
    for program in ("systemd-nspawn", "nsenter", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (apt install systemd-container)")
    if os.geteuid() != 0:
        pytest.skip("only root can boot a container")
    if sys.version_info[:2] != PYTHON:
        pytest.skip(f"the container has Python {PYTHON}, and its packages are taken from this one")
    given = os.environ.get("PENSTOCK_TEST_ROOT")
    root = Path(given) if given else _made(folder / "root")
    installed = folder / "installed"
    _install(installed)
    console = folder / "console.log"
    with console.open("wb") as log:
        container = subprocess.Popen(
            _nspawn(root, installed), stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        machine = Machine(_init_of(container, console))
        machine.wait_for(lambda: machine.sh("systemctl is-system-running") in UP)
        machine.sh("systemd-sysusers; systemd-tmpfiles --create penstock.conf")
        machine.sh("ln -sf /opt/penstock/venv/bin/penstock /usr/local/bin/")
        machine.sh("mkdir -p /etc/penstock; systemctl daemon-reload")
        yield machine
        machine.sh("systemctl poweroff")
        container.wait(PATIENCE_S)
    finally:
        _end(container)
        if not given:
            shutil.rmtree(root)


def _made(root: Path) -> Path:
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed, and PENSTOCK_TEST_ROOT is not set")
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"debootstrap failed: {done.stdout[-300:].decode(errors='replace')}")
    return root


def _install(target: Path) -> None:
    command = ["make", "install", f"DESTDIR={target}", "NO_VENV=1"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    program = target / "opt/penstock/venv/bin/penstock"
    program.parent.mkdir(parents=True)
    program.write_text(COMMAND)
    program.chmod(0o755)
    (target / "opt/penstock/packages").mkdir()


def _nspawn(root: Path, installed: Path) -> list[str]:
    packages = sysconfig.get_path("platlib")
    options = [
        f"--directory={root}", "--volatile=overlay", "--boot", "--quiet", "--register=no",
        "--private-network", "--machine=penstock-test", "--console=pipe", "--link-journal=no",
        f"--bind-ro={installed}/opt/penstock:/opt/penstock",
        f"--bind-ro={packages}:/opt/penstock/packages",
    ]  # fmt: skip
    options += [f"--bind-ro={installed}/{file}:/{file}" for file in FILES]
    if Path("/run/systemd/system").is_dir():
        return ["systemd-nspawn", *options]
    # No systemd outside that would give it a cgroup of its own: two containers in one disturb
    # each other.
    enter = "for at in /sys/fs/cgroup{/systemd,/unified,}; do [ -e $at/cgroup.procs ] || continue; "
    enter += 'mkdir -p $at/$0 && echo $$ >$at/$0/cgroup.procs; done; exec systemd-nspawn "$@"'
    return ["bash", "-c", enter, f"penstock-test-{os.getpid()}", "--keep-unit", *options]


def _init_of(container: subprocess.Popen[bytes], console: Path) -> int:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and container.poll() is None:
        for child in psutil.Process(container.pid).children():
            if child.name() == "systemd":
                return child.pid
        time.sleep(EVERY_S)
    pytest.skip(f"no container can be booted here: {console.read_text(errors='replace')[-300:]}")


def _end(container: subprocess.Popen[bytes]) -> None:
    """A killed nspawn would leave its container's first process alive: that goes first."""
    if container.poll() is None:
        for child in psutil.Process(container.pid).children():
            child.kill()
        try:
            container.wait(10.0)
        except subprocess.TimeoutExpired:
            os.killpg(container.pid, signal.SIGKILL)
            container.wait()
    for place in ("systemd", "unified", ""):
        left = Path("/sys/fs/cgroup", place, f"penstock-test-{os.getpid()}")
        for below in sorted(left.glob("**/"), reverse=True):
            if below.is_dir():
                os.rmdir(below)
