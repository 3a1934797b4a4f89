"""`penstock doctor`: what it finds on a real machine, and what it says of broken folders."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from daemon.cli import doctor_folders, doctor_host
from daemon.cli.doctor_engines import _transcribe
from daemon.cli.inventory import Inventory, Weights, take_inventory
from daemon.config import read_config
from daemon.settings import ModelSettings
from pipeline.core.recipes import TranscribeOptions
from tests.cli.house import CONFIG, House


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    house.config.write_text(CONFIG)
    return house


def test_the_whole_examination(house: House) -> None:
    """Every area is looked at, the status fits the problems, and nothing is left behind."""
    for folder in ("in", "out", "archive", "failed"):
        (house.room / folder / "drill").mkdir(parents=True)
    ran = house.penstock("doctor", "--json")
    document = json.loads(ran.stdout)
    found = document["findings"]
    areas = {finding["area"] for finding in found}
    assert areas >= {
        "python", "sqlite", "programs", "config", "clock", "state", "drill", "events", "disk",
        "leases", "card", "encoder",
    }  # fmt: skip
    problems = [finding for finding in found if finding["level"] == "problem"]
    assert document["problems"] == len(problems)
    assert ran.returncode == (1 if problems else 0)
    assert all(finding["hint"] for finding in found if finding["level"] != "ok")
    assert not house.files("out")
    assert os.listdir(house.room / "out" / "drill") == []


def test_a_file_in_the_place_of_a_folder_is_a_problem(house: House) -> None:
    """An outbox that can not be one is named with what to do, and the rest is looked at."""
    (house.room / "in" / "drill").mkdir(parents=True)
    (house.room / "out").mkdir()
    (house.room / "out" / "drill").write_text("not a folder")
    settings = read_config(str(house.config))
    found = list(doctor_folders.watches(settings))
    (problem,) = [finding for finding in found if finding.level == "problem"]
    assert "is no folder" in problem.text
    assert problem.hint
    assert any("events" in finding.text for finding in found if finding.area == "drill")


def test_too_little_room_is_said_with_the_limit(house: House) -> None:
    """Free room below a limit of [queue] is a warning or a problem."""
    settings = read_config(str(house.config))
    for low, stop, level in ((0.0, 0.0, "ok"), (1e6, 0.0, "warning"), (1e6, 1e6, "problem")):
        queue = msgspec.structs.replace(settings.queue, disk_low_gb=low, disk_stop_gb=stop)
        found = doctor_folders.disks(msgspec.structs.replace(settings, queue=queue))
        assert {finding.level for finding in found} == {level}


def test_a_status_from_the_future_shows_a_clock_set_back(house: House) -> None:
    """A status file that is dated later than now means that the clock is wrong."""
    (house.room / "state").mkdir()
    status = house.room / "state" / "status.json"
    status.write_text("{}")
    os.utime(status, (4e9, 4e9))
    (finding,) = doctor_host.clock(read_config(str(house.config)))
    assert finding.level == "problem"


def test_without_a_config_the_machine_is_still_looked_at(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad config is one problem among the findings, not the end of them."""
    house.config.write_text("[worker]\nlines = 1\n")
    monkeypatch.chdir(house.room)
    from daemon.cli import doctor, doctor_engines

    monkeypatch.setattr(doctor_engines, "take_inventory", lambda *_given: "not asked")
    found = list(doctor.examine(None))
    assert [finding.area for finding in found if finding.level == "problem"] == [
        "config",
        "engines",
    ]


def test_another_interpreter_that_is_none() -> None:
    """A [worker] python that can not be started is said in words."""
    assert "can not be started" in str(take_inventory("/nonexistent/python", b"", []))
    assert "exit status 1" in str(take_inventory("/bin/false", b"", []))


FULL = Inventory(
    packages=dict.fromkeys(
        ("torch", "openai-whisper", "pocketsphinx", "silero-vad", "onnxruntime", "av"), "1"
    ),
    weights={"small": Weights(path="/models/small.pt", file="small.pt", known=True)},
    torch="2",
)
ABSENT = msgspec.structs.replace(FULL, weights={"small": Weights(file="small.pt", known=True)})
NO_DRAFT = msgspec.structs.replace(
    ABSENT, packages={k: v for k, v in ABSENT.packages.items() if k != "pocketsphinx"}
)


@pytest.mark.parametrize(
    ("found", "options", "level", "told"),
    [
        (FULL, {}, "ok", "weights /models/small.pt"),
        (ABSENT, {}, "warning", "only DRAFTS"),
        (ABSENT, {"language": "de"}, "problem", "no other"),
        (ABSENT, {"engine": "openai-whisper"}, "problem", "Whisper can not run"),
        (ABSENT, {"engine": "pocketsphinx"}, "ok", "as configured"),
        (NO_DRAFT, {}, "problem", "no draft engine either"),
        (msgspec.structs.replace(FULL, packages={}), {}, "problem", "not installed"),
        (msgspec.structs.replace(FULL, torch=None), {}, "warning", "only DRAFTS"),
    ],
)
def test_which_engine_would_hear(
    found: Inventory, options: dict[str, str], level: str, told: str
) -> None:
    """What doctor says of `transcribe` follows the rules of its stage."""
    asked = TranscribeOptions(**options)  # type: ignore[arg-type]
    finding = _transcribe(" for talks", asked, ModelSettings(offline=True), found)
    assert (finding.level, told in finding.text) == (level, True), finding
    assert finding.hint or level == "ok"
