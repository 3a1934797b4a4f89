"""Reservations that no two threads both pass, what is said instead, and the batch that is tried."""

import logging
import os
import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.gpu.history import History
from pipeline.gpu.plan import (
    WAIT_S,
    Cpu,
    Evict,
    Fit,
    FitBatch,
    Lease,
    Need,
    Never,
    Planner,
    Room,
    Wait,
)
from pipeline.gpu.values import GIB, Features, Key, Observation, Reading

KEY = Key(stage="transcribe", model="small", device="RTX 3060")
FILE = Features(seconds=600.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(room: bytes) -> Iterator[History]:
    opened = History.open(os.path.join(room, b"memory.db"))
    yield opened
    opened.close()


@pytest.fixture
def planner(history: History, clock: Clock) -> Planner:
    return Planner(history, clock)


def space(left: int, *, own: int = 0, total: int = 100, idle: dict[str, int] | None = None) -> Room:
    """A card with `left` bytes for us beside what we hold."""
    return Room(reading=Reading(own=own, total=total), capacity=own + left, idle=idle or {})


def test_fits_once(planner: Planner) -> None:
    """What is reserved is not free for the next one, until the lease ends."""
    first = planner.reserve(Need(fixed=6, what="vad"), space(10))
    assert isinstance(first, Fit)
    assert planner.leases() == [("vad", 6)]
    assert isinstance(planner.reserve(Need(fixed=6), space(10)), Wait)
    with first.lease:
        assert planner.reserved == 6
    assert planner.reserved == 0
    assert isinstance(planner.reserve(Need(fixed=6), space(10)), Fit)


def test_a_lease_ends_once(planner: Planner) -> None:
    """Giving a lease back twice, or on an error, gives its bytes back once."""
    answer = planner.reserve(Need(fixed=4), space(10))
    other = planner.reserve(Need(fixed=4), space(10))
    assert isinstance(answer, Fit)
    assert isinstance(other, Fit)
    with pytest.raises(RuntimeError), answer.lease:
        raise RuntimeError
    answer.lease.release()
    assert planner.reserved == 4


def test_what_is_taken_is_not_counted_twice(planner: Planner) -> None:
    """Bytes of a lease that stand in the reading by now no longer count as promised."""
    answer = planner.reserve(Need(fixed=6), space(10))
    assert isinstance(answer, Fit)
    answer.lease.spent(5)
    assert planner.reserved == 1
    assert isinstance(planner.reserve(Need(fixed=5), space(5, own=5)), Wait)
    assert isinstance(planner.reserve(Need(fixed=4), space(5, own=5)), Fit)
    answer.lease.spent(2)  # it can not be untaken
    answer.lease.spent(900)
    assert planner.reserved == 4
    answer.lease.release()
    answer.lease.spent(1)
    assert planner.reserved == 4


def test_smaller_batch(planner: Planner) -> None:
    """Where the wanted batch does not fit, the largest that does is reserved."""
    answer = planner.reserve(Need(fixed=10, each=5, batch=16), space(60))
    assert isinstance(answer, FitBatch)
    assert answer.batch == 10
    assert answer.lease.size == 60


def test_no_batch_below_the_least(planner: Planner) -> None:
    """A batch smaller than the least is not offered."""
    need = Need(fixed=10, each=5, batch=16, least=4)
    assert isinstance(planner.reserve(need, space(29)), Wait)
    answer = planner.reserve(need, space(30))
    assert isinstance(answer, FitBatch)
    assert answer.batch == 4
    answer.lease.release()
    assert isinstance(planner.reserve(Need(fixed=1, batch=1, least=4), space(30)), Fit)


def test_evicts_the_fewest_oldest_models(planner: Planner) -> None:
    """Idle models are named in order until there is room; nothing is reserved meanwhile."""
    idle = {"old": 10, "older name, newer use": 20, "newest": 30}
    answer = planner.reserve(Need(fixed=25), space(5, own=60, idle=idle))
    assert answer == Evict(("old", "older name, newer use"))
    assert planner.reserved == 0


def test_evicts_rather_than_crawls(planner: Planner) -> None:
    """A batch below half of the wanted one is not taken if an idle model stands in its way."""
    need = Need(fixed=0, each=10, batch=8)
    idle = {"model": 60}
    assert planner.reserve(need, space(30, own=60, idle=idle)) == Evict(("model",))
    answer = planner.reserve(need, space(50, own=60, idle=idle))
    assert isinstance(answer, FitBatch)
    assert answer.batch == 5
    answer.lease.release()
    small = planner.reserve(need, space(30, own=10, idle={"tiny": 10}))
    assert isinstance(small, FitBatch)
    assert small.batch == 3


def test_waits_with_a_deadline_then_leaves_the_card(planner: Planner, clock: Clock) -> None:
    """A neighbour is waited for, never without end; then the CPU, or no, in plain words."""
    answer = planner.reserve(Need(fixed=50), space(10))
    assert answer == Wait(clock.now + WAIT_S)
    assert planner.reserve(Need(fixed=50, until=clock.now + 5), space(10)) == Wait(clock.now + 5)
    clock.now += 5
    late = planner.reserve(Need(fixed=50, until=clock.now), space(10))
    assert isinstance(late, Cpu)
    assert "50 B" in late.why
    bound = planner.reserve(Need(fixed=50, until=clock.now, may_cpu=False), space(10))
    assert isinstance(bound, Never)


def test_never_where_it_can_not_be(planner: Planner) -> None:
    """More than the card has, or than the budget allows, is refused at once."""
    answer = planner.reserve(Need(fixed=101), space(10, own=90, idle={"model": 90}))
    assert isinstance(answer, Never)
    room = Room(reading=Reading(own=0, total=100), capacity=10, ceiling=40)
    assert isinstance(planner.reserve(Need(fixed=41), room), Never)
    assert isinstance(planner.reserve(Need(fixed=40), room), Wait)


def test_nobody_can_tell(planner: Planner) -> None:
    """Where the card tells nothing, everything is granted: the ladder is left to catch it."""
    room = Room(reading=Reading(), capacity=None)
    assert isinstance(planner.reserve(Need(fixed=10**12, batch=8), room), Fit)


def test_check_memory_says_what_people_search_for(
    planner: Planner, caplog: pytest.LogCaptureFixture
) -> None:
    """The convenient form takes GB and logs used, required and available memory."""
    reading = Reading(own=8_200_000_000, total=12_900_000_000)
    with caplog.at_level(logging.INFO):
        answer = planner.check_memory(2.1, reading=reading, capacity=12_900_000_000)
    assert isinstance(answer, Fit)
    assert "Memory check: 8.2GB used, 2.1GB required, 4.7GB available" in caplog.text


def test_the_answer_is_in_the_log(planner: Planner, caplog: pytest.LogCaptureFixture) -> None:
    """Each answer but a plain yes is said behind the figures, with the stage's name."""
    with caplog.at_level(logging.INFO):
        planner.reserve(Need(fixed=0, each=10, batch=4, what="whisper"), space(30))
        planner.reserve(Need(fixed=200, what="demucs"), space(30))
        planner.reserve(Need(fixed=40, what="vad"), space(0, own=50, idle={"m": 50}))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].endswith("(whisper) (batch 3 instead of 4)")
    assert "(demucs) (not on the card: it needs 200 B" in lines[1]
    assert lines[2].endswith("(vad) (evicting m)")


def test_waiters_wake(planner: Planner) -> None:
    """Who waits is woken when a lease ends, and told if none did in time."""
    answer = planner.reserve(Need(fixed=4), space(10))
    assert isinstance(answer, Fit)
    assert not planner.wait(0.0)
    woken: list[bool] = []
    asleep = threading.Event()

    def waiter() -> None:
        asleep.set()
        woken.append(planner.wait(30.0))

    thread = threading.Thread(target=waiter)
    thread.start()
    asleep.wait()
    while thread.is_alive():  # it may not sleep yet when the first one is given back
        answer.lease.release()
        again = planner.reserve(Need(fixed=4), space(10))
        assert isinstance(again, Fit)
        again.lease.release()
        thread.join(0.01)
    assert woken == [True]


needs_of = st.builds(
    Need,
    fixed=st.integers(0, 60),
    each=st.integers(0, 20),
    batch=st.integers(1, 16),
    least=st.integers(1, 4),
)
steps_of = st.lists(
    st.tuples(
        needs_of,
        st.integers(0, 40),  # own
        st.integers(0, 120),  # capacity
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 30)),
        st.integers(0, 5),  # which open lease ends, if there is one
    ),
    max_size=40,
)


@given(steps_of)
def test_promises_stay_within_capacity(
    steps: list[tuple[Need, int, int, dict[str, int], int]],
) -> None:
    """Whatever comes: bytes are promised only if own + all promises, these included, fit."""
    history = History.open(b":memory:")
    planner = Planner(history, Clock())
    held: list[Lease] = []
    for need, own, capacity, idle, ends in steps:
        room = Room(reading=Reading(own=own, total=120), capacity=capacity, idle=idle)
        before = planner.reserved
        match planner.reserve(need, room):
            case Fit(lease) | FitBatch(_, lease) as answer:
                assert lease.size == 0 or own + planner.reserved <= capacity
                assert lease.size >= need.smallest
                assert (lease.size == need.size(need.batch)) or isinstance(answer, FitBatch)
                held.append(lease)
            case Evict(names):
                assert names
                assert set(names) <= set(idle)
                assert planner.reserved == before
            case Never() | Cpu() | Wait():
                assert need.smallest > capacity - own - before
                assert planner.reserved == before
        if ends < len(held):
            held.pop(ends).release()
        assert planner.reserved == sum(lease.size for lease in held)
    history.close()


def test_threads_never_promise_too_much(planner: Planner) -> None:
    """Eight threads that reserve and give back at will never exceed the capacity together."""
    capacity = 100
    taken = 0
    worst = 0
    guard = threading.Lock()
    room = Room(reading=Reading(own=0, total=capacity), capacity=capacity)

    def lane(seed: int) -> None:
        nonlocal taken, worst
        draw = random.Random(seed)
        for _turn in range(150):
            need = Need(fixed=draw.randint(1, 30), each=draw.randint(0, 9), batch=4)
            match planner.reserve(need, room):
                case Fit(lease) | FitBatch(_, lease):
                    with lease:
                        with guard:
                            taken += lease.size
                            worst = max(worst, taken)
                        with guard:
                            taken -= lease.size
                case _:
                    pass

    threads = [threading.Thread(target=lane, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst <= capacity
    assert planner.reserved == 0


def run(batch: int, peak: int, features: Features = FILE, *, oom: bool = False) -> Observation:
    return Observation(batch=batch, features=features, peak=peak, seconds=2.0, oom=oom)


def test_batch_from_the_past(
    planner: Planner, history: History, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A new planner goes on where the last one stopped, and says why in the log."""
    for number in range(30):
        batch = 1 + number % 4
        planner.observe(KEY, run(batch, 2 * GIB + batch * GIB))
    with caplog.at_level(logging.INFO):
        chosen = Planner(history, clock).choose_batch(
            KEY, FILE, wanted=2, most=8, capacity_left=int(5.5 * GIB)
        )
    assert chosen == 3
    assert "transcribe: batch 3: 100.0 % success, avg 5.4 GB; recommended 3" in caplog.text
    assert [row.batch for row in planner.summary(KEY)] == [1, 2, 3, 4]
    assert (planner.bound(KEY, FILE, 2) or 0) >= 4 * GIB


def test_wanted_holds_until_enough_is_known(planner: Planner) -> None:
    """Below twenty runs a batch stays at the wanted one, afterwards at most at the largest."""
    for number in range(19):
        planner.observe(KEY, run(1 + number % 4, GIB))
    ask = {"wanted": 2, "most": 6, "capacity_left": 90 * GIB}
    assert planner.choose_batch(KEY, FILE, **ask) == 2
    planner.observe(KEY, run(4, GIB))
    assert planner.choose_batch(KEY, FILE, **ask) == 6
    assert planner.choose_batch(KEY, FILE, wanted=2, most=6, capacity_left=None) == 6


def test_oom_is_known_before_the_retry(planner: Planner, history: History, clock: Clock) -> None:
    """When observe returns, an OOM is in the file: a fresh worker will not repeat it."""
    planner.observe(KEY, run(1, GIB))
    planner.observe(KEY, run(2, 2 * GIB, oom=True))
    assert history.load(KEY)[-1].oom
    fresh = Planner(history, clock)
    assert fresh.choose_batch(KEY, FILE, wanted=8, most=8, capacity_left=90 * GIB) == 1


@pytest.mark.slow
def test_no_shape_runs_out_twice_in_ten_thousand(history: History, clock: Clock) -> None:
    """Over 10 000 files and a fresh worker every 500, no shape that ran out is admitted again."""
    draw = random.Random(5)
    shapes = [Features(seconds=60.0 * draw.randint(1, 90)) for _number in range(300)]
    ran_out: dict[Features, int] = {}
    planner = Planner(history, clock)
    ooms = 0
    for number in range(10_000):
        if number % 500 == 0:
            planner = Planner(history, clock)
        features = draw.choice(shapes)
        left = draw.randint(4, 12) * GIB
        batch = planner.choose_batch(KEY, features, wanted=4, most=16, capacity_left=left)
        assert batch < ran_out.get(features, 99)
        need = GIB + batch * GIB // 2 + round(features.seconds / 60 * 2e7)
        if draw.random() < 0.01:
            need *= 3  # a freak, so that there is something to remember
        oom = batch > 0 and need > left
        ooms += oom
        if oom:
            ran_out[features] = batch
        if batch:
            planner.observe(KEY, run(batch, min(need, left), features, oom=oom))
    assert ooms > 10


@settings(max_examples=20)
@given(st.data())
def test_same_shape_never_twice(data: st.DataObject) -> None:
    """Whatever runs out, its shape is never again tried at that batch or a larger one."""
    history = History.open(b":memory:")
    planner = Planner(history, Clock())
    ran_out: dict[Features, int] = {}
    for _turn in range(40):
        features = Features(seconds=data.draw(st.sampled_from([10.0, 60.0, 3600.0])))
        left = data.draw(st.integers(GIB, 12 * GIB))
        batch = planner.choose_batch(KEY, features, wanted=16, most=16, capacity_left=left)
        assert batch < ran_out.get(features, 99)
        if batch:
            oom = data.draw(st.booleans())
            planner.observe(KEY, run(batch, left, features, oom=oom))
            if oom:
                ran_out[features] = batch
    history.close()
