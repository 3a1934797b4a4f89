"""The unit and its companions: what they must say, checked with systemd's own tools if there."""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli import main
from daemon.config import read_config
from tests.fakes.machine import Machine, booted

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "systemd/penstock.service"
EXAMPLE = ROOT / "systemd/config.toml.example"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def words(key: str) -> set[str]:
    return {word for value in directives().get(key, []) for word in value.split()}


def needs(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("Type", ["notify", "notify-reload"]),  # in this order: systemd before 253 keeps the first
        ("NotifyAccess", ["main"]),
        ("WatchdogSec", ["60s"]),
        ("Restart", ["on-failure"]),
        ("KillMode", ["mixed"]),
        ("OOMPolicy", ["continue"]),
        ("ExecReload", ["/bin/kill -HUP $MAINPID"]),
        ("AmbientCapabilities", ["CAP_LEASE"]),
        ("CapabilityBoundingSet", ["CAP_LEASE"]),
        ("ProtectSystem", ["strict"]),
        ("DevicePolicy", ["closed"]),
        ("NoNewPrivileges", ["yes"]),
        ("UMask", ["0007"]),
        ("StateDirectory", ["penstock"]),
        ("LogsDirectory", ["penstock"]),
        ("CacheDirectory", ["penstock"]),
    ],
)
def test_the_unit_says(key: str, values: list[str]) -> None:
    """A directive on which a promise rests has this value."""
    assert directives()[key] == values


def test_no_restart_where_it_is_no_use() -> None:
    """The statuses that prevent a restart are those of the command for usage, busy and config."""
    statuses = {str(main.EX_USAGE), str(main.EX_BUSY), str(main.EX_CONFIG)}
    assert words("RestartPreventExitStatus") == statuses


def test_the_config_check_may_fail() -> None:
    """The check before the start can not cause a restart loop: only the main process can end it."""
    (check,) = directives()["ExecStartPre"]
    (start,) = directives()["ExecStart"]
    assert check.startswith("-")
    assert check[1:] == start.replace(" run ", " config check ")


def test_a_stop_has_time_for_running_jobs() -> None:
    """systemd waits longer than the daemon lets jobs finish."""
    patience = float(directives()["TimeoutStopSec"][0].removesuffix("s"))
    for path in (EXAMPLE, ROOT / "config.toml"):
        assert read_config(str(path)).daemon.stop_seconds + 15 < patience


def test_the_installed_config_fits_the_unit() -> None:
    """Each folder of the installed config can be written in the sandbox, and each rename works."""
    settings = read_config(str(EXAMPLE))
    assert settings.daemon.state_dir == b"/var/lib/" + directives()["StateDirectory"][0].encode()
    assert settings.daemon.log_dir == b"/var/log/" + directives()["LogsDirectory"][0].encode()
    assert settings.models.dir.startswith(settings.daemon.state_dir)
    (parent,) = words("ReadWritePaths")  # a second one would be a second mount
    for watch in settings.watch:
        for folder in (watch.path, watch.outbox, watch.archive, watch.failed):
            assert folder.startswith(parent.removeprefix("-").encode() + b"/")
    assert settings.models.offline == ("any" in words("IPAddressDeny"))


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say but that an old systemd lacks notify-reload."""
    analyze = needs("systemd-analyze")
    path = tmp_path / "penstock.service"
    path.write_text(UNIT.read_text().replace("/opt/penstock/venv/bin/penstock", "/bin/true"))
    done = run(analyze, "verify", "--man=no", "--recursive-errors=no", str(path))
    assert [line for line in done.stderr.splitlines() if "notify-reload" not in line] == []


def test_the_unit_is_tight() -> None:
    """systemd rates the unit's exposure at 2.0 or better (10 is worst)."""
    analyze = needs("systemd-analyze")
    if "--offline" not in run(analyze, "--help").stdout:
        pytest.skip("this systemd-analyze can not rate a file")
    done = run(analyze, "security", "--no-pager", "--offline=true", "--threshold=20", str(UNIT))
    assert done.returncode == 0, done.stdout


@needs_root
def test_user_and_folder_are_made(tmp_path: Path) -> None:
    """The user and a folder for its group are made; a folder that is there keeps its rights."""
    sysusers, tmpfiles = needs("systemd-sysusers"), needs("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    made = run(sysusers, f"--root={tmp_path}", str(ROOT / "systemd/penstock.sysusers.conf"))
    assert made.returncode == 0, made.stderr
    users = (tmp_path / "etc/passwd").read_text()
    assert re.search(r"^penstock:.*:/var/lib/penstock:.*/nologin$", users, re.MULTILINE)
    folder = tmp_path / "srv/penstock"
    command = [
        tmpfiles,
        f"--root={tmp_path}",
        "--create",
        str(ROOT / "systemd/penstock.tmpfiles.conf"),
    ]
    assert run(*command).returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    folder.chmod(0o755)  # as a share mounted there may be
    assert run(*command).returncode == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    yield from booted(tmp_path_factory.mktemp("machine"))


@pytest.mark.slow
def test_the_service_under_a_real_systemd(machine: Machine) -> None:
    """Started, reloaded, stopped, killed and hung under systemd, the service loses no file."""
    _ready_after_the_first_scan(machine)
    _reads_its_config_again(machine)
    _waits_for_a_writer_of_another_user(machine)
    _one_instance(machine)
    _survives_kill(machine)
    _ends_clean(machine)
    _stays_down_with_a_bad_config(machine)
    _hang_is_ended_by_the_watchdog(machine)


def _ready_after_the_first_scan(machine: Machine) -> None:
    machine.configure(seconds=0.2)
    machine.sh("mkdir -p /srv/penstock/in && cd /srv/penstock/in && touch old-{1..2000}.tmp")
    machine.sh("echo drop >/srv/penstock/in/first.txt; chown -R penstock: /srv/penstock")
    machine.sh("systemctl start penstock")
    log = machine.sh("cat /var/log/penstock/file_monitor.jsonl")
    assert '"event":"seen"' in log, "READY came before the first scan"
    assert machine.property("Type").startswith("notify")
    machine.wait_for(lambda: machine.has("/srv/penstock/out/first"))
    assert re.match(r"ready; 0 queued", machine.property("StatusText"))


def _reads_its_config_again(machine: Machine) -> None:
    pid = machine.property("MainPID")
    machine.configure(seconds=3.0)
    machine.sh("systemctl reload penstock")
    machine.wait_for(lambda: "read again" in machine.journal())
    machine.sh("cp /etc/penstock/config.toml /tmp/good; echo oops=1 >>/etc/penstock/config.toml")
    machine.sh("systemctl reload penstock")
    machine.wait_for(lambda: "the old one stays" in machine.journal())
    machine.wait_for(lambda: machine.property("StatusText").startswith("degraded"))
    machine.sh("cp /tmp/good /etc/penstock/config.toml; systemctl reload penstock")
    machine.wait_for(lambda: machine.property("StatusText").startswith("ready"))
    assert machine.property("MainPID") == pid


def _waits_for_a_writer_of_another_user(machine: Machine) -> None:
    held = "/srv/penstock/in/held.txt"
    writer = machine.start(f"exec 3>{held}; echo a >&3; chmod 644 {held}; read -r; exec 3>&-")
    machine.wait_for(lambda: "still writing" in machine.sh(f"penstock why {held}"))
    assert not machine.has("/srv/penstock/out/held")
    writer.communicate(b"\n")
    machine.wait_for(lambda: machine.has("/srv/penstock/out/held"))


def _one_instance(machine: Machine) -> None:
    second = machine.sh(
        "setpriv --reuid=penstock --regid=penstock --clear-groups"
        " penstock run --config /etc/penstock/config.toml 2>&1; echo status $?"
    )
    assert f"status {main.EX_BUSY}" in second
    assert "is held by penstock pid" in second


def _survives_kill(machine: Machine) -> None:
    machine.sh("cd /srv/penstock/in; for name in a b c; do echo $name >$name.txt; done")
    machine.wait_for(lambda: "noop" in machine.property("StatusText"))  # one is being worked on
    machine.kill("KILL")
    machine.wait_for(lambda: machine.property("NRestarts") == "1")
    machine.wait_for(
        lambda: all(machine.has(f"/srv/penstock/out/{name}/{name}.noop.json") for name in "abc")
    )
    machine.wait_for(lambda: machine.sh("ls /srv/penstock/done").split() == [
        "a.txt", "b.txt", "c.txt", "first.txt", "held.txt",
    ])  # fmt: skip


def _ends_clean(machine: Machine) -> None:
    machine.sh(": >/srv/penstock/in/empty.txt")  # a file that fails is no failure of the service
    machine.wait_for(lambda: machine.has("/srv/penstock/failed/empty.txt.FAILED.txt"))
    machine.sh("systemctl stop penstock")
    assert machine.property("Result") == "success"
    assert machine.property("ActiveState") == "inactive"
    assert "pipeline.worker" not in machine.sh("ps ax")


def _stays_down_with_a_bad_config(machine: Machine) -> None:
    machine.sh("echo oops=1 >>/etc/penstock/config.toml; systemctl start penstock || true")
    machine.wait_for(lambda: machine.property("ActiveState") == "failed")
    assert machine.property("ExecMainStatus") == str(main.EX_CONFIG)
    assert machine.property("NRestarts") == "0"
    assert 'key "oops" is not known' in machine.journal()
    machine.sh("cp /tmp/good /etc/penstock/config.toml; systemctl reset-failed penstock")


def _hang_is_ended_by_the_watchdog(machine: Machine) -> None:
    machine.sh("mkdir -p /run/systemd/system/penstock.service.d")
    machine.sh(
        "printf '[Service]\\nWatchdogSec=5\\n' >/run/systemd/system/penstock.service.d/short.conf"
    )
    machine.sh("systemctl daemon-reload; systemctl start penstock")
    hung = machine.property("MainPID")
    machine.kill("STOP")
    machine.wait_for(lambda: machine.property("NRestarts") == "1")
    machine.wait_for(lambda: machine.property("ActiveState") == "active")
    assert machine.property("MainPID") != hung
    assert "Watchdog timeout" in machine.journal()
    assert "daemon/service.py" in machine.journal(), "no Python stack of the hang"
    machine.sh("systemctl stop penstock")
