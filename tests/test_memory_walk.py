"""When memory runs out or a card is lost: rungs, fresh workers, the breaker."""

from daemon.queue.reader import Reader
from daemon.values import Rung
from tests.fakes.house import House, Open


def history(house: House, number: int) -> list[str]:
    with Reader(house.path("state", "ledger.db")) as reader:
        return [event.event for event in reader.history(number)]


def test_a_file_too_large_is_done_alone_in_a_fresh_worker(open_house: Open) -> None:
    """After memory ran out the file runs frugally in a worker of its own, and the rung is kept."""
    house = open_house()
    house.drop("memory.txt")
    job = house.until_ended(1).recent[0]
    assert job.state == "done"
    house.close()
    with Reader(house.path("state", "ledger.db")) as reader:
        row = reader.job(job.job)
    assert row is not None
    assert row.rung is Rung.FRESH
    assert row.attempt == 2
    assert house.events().count("worker_started") == 2


def test_a_file_that_never_fits_is_quarantined_after_the_cpu(open_house: Open) -> None:
    """Fresh worker, then CPU, then the failed folder with a note; its neighbours are done."""
    house = open_house()
    house.drop("starved.txt")
    house.drop("good.txt")
    status = house.until_ended(2)
    assert {job.file: job.state for job in status.recent} == {
        "starved.txt": "failed",
        "good.txt": "done",
    }
    note = (house.room / "failed/starved.txt.FAILED.txt").read_text()
    assert "memory did not suffice, even without the card" in note


def test_a_sticky_error_replaces_the_worker(open_house: Open) -> None:
    """A poisoned worker is never given another file; the second one quarantines the culprit."""
    house = open_house()
    house.drop("sticky.txt")
    for number in range(3):
        house.drop(f"good-{number}.txt")
    status = house.until_ended(4)
    ends = {job.file: job.state for job in status.recent}
    assert ends.pop("sticky.txt") == "failed"
    assert set(ends.values()) == {"done"}
    house.close()
    assert house.events().count("worker_started") >= 2
    assert house.events().count("worker_lost") == 2


def test_a_lost_card_means_cpu_only_and_a_loud_status(open_house: Open) -> None:
    """When the card is lost the file is done without it, and the status says so loudly."""
    house = open_house()
    house.drop("lost.txt")
    status = house.until_ended(1)
    assert status.recent[0].state == "done"
    status = house.until(lambda status: status.state == "degraded")
    assert any("card is lost" in problem for problem in status.problems)
    house.drop("good.txt")
    assert house.until_ended(2).recent[0].state == "done"
    house.close()
    assert "device_lost" in house.events()
