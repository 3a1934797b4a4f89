"""Setup, installation and the README: what they promise, without a network."""

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from daemon.cli.main import COMMANDS
from daemon.config import read_config
from pipeline.core.recipes import RECIPES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
no_card = pytest.mark.skipif(
    Path("/proc/driver/nvidia/version").exists(), reason="this machine has a card"
)

# Stands for Python and for the environment that it makes; pip calls go to pip.log.
FAKE_PYTHON = r"""#!/bin/bash
here=$(dirname "$0")
case "$*" in
*version_info\ \<*) [ -z "$TOO_OLD" ] ;;
*ensurepip*) [ -z "$NO_VENV_MODULE" ] ;;
*version_info*) echo same ;;
*--version*) echo Python ;;
"-m venv --clear "*)
    mkdir -p "$4/bin"
    cp "$0" "$4/bin/python"
    printf '#!/bin/bash\necho "penstock 0"\n' >"$4/bin/penstock"
    chmod +x "$4/bin/penstock"
    ;;
"-m pip "*) shift 5; echo "$*" >>"$PIP_LOG"; [[ -z "$REFUSE" || ! "$*" =~ $REFUSE ]] ;;
*importlib.metadata*) exit 1 ;;
esac
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


class Setup:
    """systemd/make-venv with a Python that only pretends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "pip.log"
        (folder / "bin").mkdir()
        self.python = self.program("python3", FAKE_PYTHON)

    def program(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run(self, extras: str = "asr,dev", **more: str) -> subprocess.CompletedProcess[str]:
        venv = str(self.folder / "venv")
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        environment = {"PYTHON": str(self.python), "PIP_LOG": str(self.log), "PATH": path} | more
        return run("systemd/make-venv", "--editable", venv, ".", extras, **environment)

    def calls(self) -> list[str]:
        """What pip was asked for since the last question."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    made = Setup(tmp_path)
    for name in ("ffmpeg", "espeak-ng", "flite", "rsync", "strace"):
        made.program(name, "#!/bin/sh\n")  # so that nothing is installed by a test
    return made


@no_card
def test_a_machine_without_a_card_gets_the_cpu_build(setup: Setup) -> None:
    """Without a card torch comes as its CPU build, and openai-whisper without triton."""
    assert setup.run().returncode == 0
    torch, ours, whisper = setup.calls()
    assert torch == "install --no-deps torch==2.13.0+cpu"
    assert ours == "install -e .[asr-cpu,dev]"
    assert whisper.startswith("install --no-deps openai-whisper==")


@no_card
def test_the_cpu_build_is_looked_for_at_pytorch_too(setup: Setup) -> None:
    """Where pip's own indexes do not have the CPU build, PyTorch's is asked for torch alone."""
    assert setup.run(REFUSE=r"\+cpu").returncode == 0
    second = setup.calls()[1]
    assert second == (
        "install --no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0"
    )


@no_card
def test_no_cpu_build_is_an_end_with_a_sentence(setup: Setup) -> None:
    """A machine that can not have the CPU build is told what to do, and gets no other build."""
    done = setup.run(REFUSE="torch==")
    assert done.returncode == 1
    assert "make setup EXTRAS=dev" in done.stderr
    assert not [call for call in setup.calls() if "-e" in call]


def test_a_machine_with_a_card_gets_the_usual_build(setup: Setup) -> None:
    """With a card torch and openai-whisper come with all that they ask for."""
    setup.program("nvidia-smi", "#!/bin/sh\n")
    assert setup.run().returncode == 0
    assert setup.calls() == ["install torch==2.13.0", "install -e .[asr,dev]"]


def test_without_speech_there_is_no_torch(setup: Setup) -> None:
    """Extras that need no torch fetch none."""
    assert setup.run("dev").returncode == 0
    assert setup.calls() == ["install -e .[dev]"]


def test_a_second_setup_does_nothing(setup: Setup) -> None:
    """Nothing changed: pip is not called. Other extras: it is."""
    assert setup.run().returncode == 0
    setup.calls()
    again = setup.run()
    assert (again.returncode, again.stdout, setup.calls()) == (0, "", [])
    assert setup.run("dev").returncode == 0
    assert setup.calls()


def test_a_failed_setup_is_not_taken_for_done(setup: Setup) -> None:
    """After a setup that broke off the next one goes on."""
    assert setup.run("dev", REFUSE="-e").returncode != 0
    setup.calls()
    assert setup.run("dev").returncode == 0
    assert setup.calls() == ["install -e .[dev]"]


@pytest.mark.parametrize(
    ("lack", "sentence"),
    [("TOO_OLD", "no Python 3.11 or newer"), ("NO_VENV_MODULE", "apt-get install python3-venv")],
)
def test_what_python_lacks_is_said(setup: Setup, lack: str, sentence: str) -> None:
    """A Python that is too old or can make no environment ends the setup with a clear sentence."""
    done = setup.run(**{lack: "yes"})
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not setup.calls()


def test_missing_programs_do_not_stop_the_setup(tmp_path: Path) -> None:
    """Where nothing may be installed, each missing program is named with what goes without it."""
    for name in ("bash", "id", "cut", "paste", "env"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    done = run("systemd/os-packages", PATH=str(tmp_path))
    assert done.returncode == 0
    assert "has no apt-get" in done.stdout
    assert "ffmpeg: the tests" in done.stdout
    assert "sudo apt-get install ffmpeg" in done.stdout


def test_pins_agree() -> None:
    """The versions that the setup fetches by itself are those that pyproject.toml allows."""
    script = (ROOT / "systemd/make-venv").read_text()
    extras = PROJECT["optional-dependencies"]
    whisper = re.search(r"^WHISPER=(\S+)$", script, re.MULTILINE)
    torch = re.search(r"^TORCH=(\d+)\.(\d+)", script, re.MULTILINE)
    assert whisper
    assert torch
    assert f"openai-whisper=={whisper[1]}" in extras["asr"]
    wanted = next(line for line in extras["asr-cpu"] if line.startswith("torch>="))
    least, below = re.findall(r"(\d+)\.(\d+)", wanted)
    version = tuple(map(int, torch.groups()))
    assert tuple(map(int, least)) <= version < tuple(map(int, below))


def test_whisper_lacks_only_triton() -> None:
    """What openai-whisper asks for, apart from triton, is asked for by the extra `asr-cpu`."""
    try:
        wishes = importlib.metadata.requires("openai-whisper") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("openai-whisper is not installed")
    name = re.compile(r"[A-Za-z0-9-]+")
    wanted = {name.match(wish).group() for wish in wishes if "extra ==" not in wish}  # type: ignore[union-attr]
    ours = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["asr-cpu"]]
    assert wanted - {name.match(line).group() for line in ours} == {"triton"}  # type: ignore[union-attr]


@needs_make
def test_install_lays_the_files_out(tmp_path: Path) -> None:
    """`make install` puts program, unit, user, folders, config and command where they belong."""
    assert run("make", "install", f"DESTDIR={tmp_path}", "NO_VENV=1").returncode == 0
    same = {
        "etc/systemd/system/penstock.service": "systemd/penstock.service",
        "etc/sysusers.d/penstock.conf": "systemd/penstock.sysusers.conf",
        "etc/tmpfiles.d/penstock.conf": "systemd/penstock.tmpfiles.conf",
        "etc/penstock/config.toml": "systemd/config.toml.example",
        "opt/penstock/src/pyproject.toml": "pyproject.toml",
        "opt/penstock/src/daemon/queue/ledger.sql": "daemon/queue/ledger.sql",
        "opt/penstock/src/pipeline/worker.py": "pipeline/worker.py",
    }
    for installed, source in same.items():
        assert (tmp_path / installed).read_bytes() == (ROOT / source).read_bytes(), installed
    command = tmp_path / "usr/local/bin/penstock"
    assert os.readlink(command) == "/opt/penstock/venv/bin/penstock"
    for path in tmp_path.rglob("*"):
        assert path.name != "__pycache__"
        if not path.is_symlink():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o022, f"{path} is writable by others"


@needs_make
def test_install_again_keeps_the_config(tmp_path: Path) -> None:
    """An upgrade replaces the program whole and leaves the config as it is."""
    where = f"DESTDIR={tmp_path}"
    assert run("make", "install", where, "NO_VENV=1").returncode == 0
    config = tmp_path / "etc/penstock/config.toml"
    config.write_text("# mine\n")
    stale = tmp_path / "opt/penstock/src/daemon/stale.py"
    stale.touch()
    assert run("make", "install", where, "NO_VENV=1").returncode == 0
    assert config.read_text() == "# mine\n"
    assert not stale.exists()


@needs_make
def test_uninstall_leaves_config_and_data(tmp_path: Path) -> None:
    """`make uninstall` takes the program away and nothing that belongs to people."""
    where = f"DESTDIR={tmp_path}"
    run("make", "install", where, "NO_VENV=1")
    data = [tmp_path / "srv/penstock/inbox/a.wav", tmp_path / "var/lib/penstock/ledger.db"]
    for path in data:
        path.parent.mkdir(parents=True)
        path.touch()
    assert run("make", "uninstall", where).returncode == 0
    left = {path for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {*data, tmp_path / "etc/penstock/config.toml"}


@needs_make
def test_only_root_installs_a_service() -> None:
    """Without root and DESTDIR, install and uninstall refuse with a sentence."""
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "make"]
        if not shutil.which("setpriv") or run(*command, "-n", "help").returncode != 0:
            pytest.skip("another user can not read this checkout")
    else:
        command = ["make"]
    for target in ("install", "uninstall"):
        done = run(*command, target)
        assert done.returncode != 0
        assert "only root" in done.stderr


def test_ci_runs_what_the_readme_says() -> None:
    """CI runs `make test`, the README's own command."""
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^timeout .* make test ", script.read_text(), re.MULTILINE)
    assert "make test" in README


def test_the_readme_names_real_commands() -> None:
    """Every `make` target and every `penstock` command in the README exists."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    commands = set(COMMANDS)
    named = set(re.findall(r"(?:`|^|sudo )(?:\.venv/bin/)?penstock ([a-z]+)", README, re.MULTILINE))
    assert named <= commands
    assert commands <= named, "the README leaves a command out"


def test_the_readme_shows_a_config_that_works(tmp_path: Path) -> None:
    """The README's example config is read without a complaint."""
    examples = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(next(text for text in examples if "[[watch]]" in text))
    assert read_config(str(path)).watch


def test_the_readme_lists_every_recipe() -> None:
    """The README's table has each recipe that is built."""
    for recipe in RECIPES.values():
        assert f"| `{recipe.name}` |" in README
