"""The shelf: loaded once, shared, dropped oldest first, never while leased, dead afterwards."""

import gc
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.gpu.shelf import Evicted, Shelf

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Card:
    """Counts what models hold, as a reader of memory would."""

    def __init__(self) -> None:
        self.held = 0
        self.loads: list[str] = []

    def load(self, name: str, size: int) -> Callable[[], nn.Module]:
        def work() -> nn.Module:
            self.loads.append(name)
            self.held += size
            return nn.Sequential(nn.Linear(8, 8), nn.ReLU())

        return work


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))


def use(shelf: Shelf, card: Card, name: str, size: int = MIB) -> None:
    with shelf.lease(name, card.load(name, size)):
        pass


def test_loaded_once_and_shared() -> None:
    """Leases of one name, at the same time and later, get the same object from one load."""
    shelf, card = Shelf(), Card()
    with shelf.lease("a", card.load("a", 1)) as one, shelf.lease("a", card.load("a", 1)) as two:
        assert one is two
        assert shelf.describe()[0].leases == 2
    with shelf.lease("a", card.load("a", 1)) as three:
        assert three is one
    assert card.loads == ["a"]


def test_measures_bytes_and_seconds() -> None:
    """Size and load time are measured; without a measure the given size counts."""
    clock, card = Clock(), Card()
    shelf = Shelf(held=lambda: card.held, clock=clock)
    use(shelf, card, "a", 300 * MIB)
    (row,) = shelf.describe()
    assert (row.name, row.size, row.leases, row.state) == ("a", 300 * MIB, 0, "ready")
    assert row.load_seconds > 0
    assert row.idle_seconds > 0
    blind = Shelf()
    with blind.lease("a", card.load("a", 1), size=7):
        assert blind.describe()[0].size == 7
        assert blind.idle() == {}


def test_drops_the_least_recently_used() -> None:
    """Eviction goes from the longest unused on and stops when enough bytes are gone."""
    card = Card()
    shelf = Shelf(held=lambda: card.held, clock=Clock())
    for name in "abc":
        use(shelf, card, name, 10)
    use(shelf, card, "a", 10)
    assert list(shelf.idle()) == ["b", "c", "a"]
    assert shelf.evict(11) == [Evicted("b", 10), Evicted("c", 10)]
    assert shelf.evict(0) == []
    assert list(shelf.idle()) == ["a"]


def test_never_drops_what_is_leased() -> None:
    """A leased model stays, whoever asks; it may go once the last lease has ended."""
    shelf, card = Shelf(), Card()
    with ExitStack() as leases:
        model = leases.enter_context(shelf.lease("a", card.load("a", 1), size=5))
        leases.enter_context(shelf.lease("a", card.load("a", 1)))
        assert shelf.evict(10**9) == shelf.evict_all_unleased() == shelf.evict_named(["a"]) == []
        assert model is not None
    del model
    assert shelf.evict_named(["a", "never there"]) == [Evicted("a", 5)]


def test_a_dropped_module_is_dead() -> None:
    """After eviction nothing of a real module is alive."""
    shelf = Shelf()
    with shelf.lease("net", module) as net:
        net(torch.zeros(1, 64))
    del net
    shelf.evict_all_unleased()
    assert shelf.survivors() == []
    assert shelf.describe() == []


def test_a_kept_model_is_named_until_it_dies() -> None:
    """A model, or a part of it, that somebody keeps is named after its eviction."""
    shelf = Shelf()
    with shelf.lease("net", module) as net:
        kept: object = net
    del net
    shelf.evict_all_unleased()
    assert shelf.survivors() == ["net"]
    kept = next(iter(kept.children()))  # type: ignore[attr-defined]
    assert shelf.survivors() == ["net"]
    kept = None
    assert shelf.survivors() == []


def test_a_cycle_does_not_survive() -> None:
    """A model in a reference cycle is collected before it is called alive."""
    shelf = Shelf()

    def load() -> nn.Module:
        net = module()
        net.hook = [net]  # type: ignore[assignment]
        return net

    gc.disable()
    try:
        with shelf.lease("net", load):
            pass
        shelf.evict_all_unleased()
        assert shelf.survivors() == []
    finally:
        gc.enable()


def test_an_error_in_the_lease_keeps_nothing() -> None:
    """After an error inside a lease the model can be dropped, and it dies with the error."""
    shelf = Shelf()

    def stage() -> None:
        with shelf.lease("net", module) as net:
            net(torch.zeros(1, 3))  # a wrong shape: raised deep inside, with frames that hold net

    try:
        stage()
    except RuntimeError:
        failed = True
    assert failed
    assert [gone.name for gone in shelf.evict_all_unleased()] == ["net"]
    assert shelf.survivors() == []


def test_a_failed_load_leaves_no_trace() -> None:
    """What a load raises passes through; the next lease loads afresh."""
    shelf = Shelf(held=lambda: 0)

    def fails() -> nn.Module:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError), shelf.lease("a", fails):
        pass
    assert shelf.describe() == []
    assert shelf.survivors() == []
    with shelf.lease("a", module) as net:
        assert net is not None


def test_a_failed_measure_does_not_block_the_name() -> None:
    """A reader of memory that raises makes the lease fail, not the next one wait for ever."""
    answers = iter([ValueError("no driver")])

    def held() -> int | None:
        for error in answers:
            raise error
        return None

    shelf = Shelf(held=held)
    with pytest.raises(ValueError, match="no driver"), shelf.lease("a", module):
        pass
    with shelf.lease("a", module):
        pass


def test_unload_hook() -> None:
    """The hook gets its model before it is dropped; a hook that fails does not keep it."""
    shelf = Shelf()
    seen: list[int] = []

    def fails(net: nn.Module) -> None:
        raise RuntimeError("CUDA error: out of memory")

    with shelf.lease("a", module, unload=lambda net: seen.append(len(list(net.children())))):
        pass
    with shelf.lease("b", module, unload=fails):
        pass
    assert {gone.name for gone in shelf.evict_all_unleased()} == {"a", "b"}
    assert seen == [3]
    assert shelf.survivors() == []


def test_things_without_weak_references() -> None:
    """A model of a type that knows no weak references can be leased and dropped all the same."""
    shelf = Shelf()
    with shelf.lease("numbers", lambda: (1, 2, 3)) as numbers:
        assert numbers == (1, 2, 3)
    shelf.evict_all_unleased()
    assert shelf.survivors() == []


def test_a_load_blocks_only_its_name() -> None:
    """While a model loads, others can be leased and dropped; the same name waits and shares it."""
    shelf = Shelf()
    started, may_end = threading.Event(), threading.Event()
    got: list[object] = []

    def slow() -> nn.Module:
        started.set()
        may_end.wait(30)
        return module()

    def lane() -> None:
        with shelf.lease("slow", slow) as net:
            got.append(net)

    threads = [threading.Thread(target=lane) for _number in range(3)]
    threads[0].start()
    started.wait(30)
    for thread in threads[1:]:
        thread.start()
    with shelf.lease("other", module):
        assert {row.name: row.state for row in shelf.describe()}["slow"] == "loading"
    assert [gone.name for gone in shelf.evict_all_unleased()] == ["other"]
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(got) == 3
    assert len({id(net) for net in got}) == 1


def test_who_waits_for_a_load_that_fails_loads_itself() -> None:
    """If a load fails, a lane that waited for it tries its own; only the first one's fails."""
    shelf = Shelf()
    started, may_fail = threading.Event(), threading.Event()
    failures: list[str] = []

    def fails() -> nn.Module:
        started.set()
        may_fail.wait(30)
        raise MemoryError

    def first() -> None:
        try:
            with shelf.lease("a", fails):
                pass
        except MemoryError:
            failures.append("first")

    def second() -> None:
        with shelf.lease("a", module):
            pass

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    started.wait(30)
    threads[1].start()
    may_fail.set()
    for thread in threads:
        thread.join()
    assert failures == ["first"]
    assert [row.name for row in shelf.describe()] == ["a"]


def test_a_name_that_is_leaving_is_waited_for() -> None:
    """A lease during the unload of its name gets a fresh model, never the dying one."""
    shelf = Shelf()
    leaving, may_go = threading.Event(), threading.Event()
    loads: list[int] = []

    def load() -> nn.Module:
        loads.append(1)
        return module()

    def unload(net: nn.Module) -> None:
        leaving.set()
        may_go.wait(30)

    with shelf.lease("a", load, unload=unload):
        pass
    dropper = threading.Thread(target=shelf.evict_all_unleased)
    dropper.start()
    leaving.wait(30)
    done: list[int] = []

    def lane() -> None:
        with shelf.lease("a", load):
            done.append(len(loads))

    leaser = threading.Thread(target=lane)
    leaser.start()
    assert shelf.evict_named(["a"]) == []
    assert not done
    may_go.set()
    dropper.join()
    leaser.join()
    assert done == [2]


def test_sizes_of_loads_at_the_same_time() -> None:
    """Two loads at once can not be told apart by measuring: then what they are believed counts."""
    held = 0
    shelf = Shelf(held=lambda: held)
    both = threading.Barrier(2)

    def load() -> nn.Module:
        nonlocal held
        both.wait(30)
        held += 100
        both.wait(30)
        return module()

    def lane(name: str) -> None:
        with shelf.lease(name, load, size=30):
            pass

    threads = [threading.Thread(target=lane, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.size for row in shelf.describe()] == [30, 30]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("lre"), st.sampled_from("abcd")), max_size=40))
def test_any_order_of_leases_and_evictions(steps: list[tuple[str, str]]) -> None:
    """Whatever the order: a leased model is never dropped, and what is idle is what no one has."""
    shelf, card = Shelf(clock=Clock()), Card()
    open_leases: dict[str, list[ExitStack]] = {name: [] for name in "abcd"}
    there: set[str] = set()
    for step, name in steps:
        if step == "l":
            stack = ExitStack()
            stack.enter_context(shelf.lease(name, card.load(name, 1), size=10))
            open_leases[name].append(stack)
            there.add(name)
        elif step == "r" and open_leases[name]:
            open_leases[name].pop().close()
        elif step == "e":
            gone = {each.name for each in shelf.evict(20)}
            assert not any(open_leases[each] for each in gone)
            there -= gone
        assert {row.name for row in shelf.describe()} == there
        assert set(shelf.idle()) == {each for each in there if not open_leases[each]}
    for stacks in open_leases.values():
        for stack in stacks:
            stack.close()
    assert {gone.name for gone in shelf.evict_all_unleased()} == there


def test_many_threads() -> None:
    """Lanes that lease while another evicts never see a model that was dropped under them."""
    shelf = Shelf()
    stop = threading.Event()
    broken: list[str] = []

    class Model:
        alive = True

    def unload(model: Model) -> None:
        model.alive = False

    def lane(seed: int) -> None:
        draw = random.Random(seed)
        for _turn in range(300):
            name = draw.choice("abc")
            with shelf.lease(name, Model, size=1, unload=unload) as model:
                if not model.alive:
                    broken.append(name)

    def evictor() -> None:
        while not stop.is_set():
            shelf.evict(2)

    lanes = [threading.Thread(target=lane, args=(seed,)) for seed in range(4)]
    other = threading.Thread(target=evictor)
    for thread in (other, *lanes):
        thread.start()
    for thread in lanes:
        thread.join()
    stop.set()
    other.join()
    assert broken == []
    shelf.evict_all_unleased()
    assert shelf.survivors() == []
