"""The fake card behaves like a real one where tests rely on it."""

import gc

import pytest
import torch

from tests.fakes.card import GIB, FakeCard


def test_too_much_is_the_real_error() -> None:
    """What does not fit raises PyTorch's own class with its words, and changes nothing."""
    card = FakeCard(12 * GIB, reserve=GIB, neighbour=4 * GIB, context=GIB)
    with card.use(4 * GIB), pytest.raises(torch.OutOfMemoryError) as caught:
        card.allocate(3 * GIB)
    assert "Tried to allocate 3.00 GiB. GPU 0 has a total capacity of 12.00 GiB" in str(
        caught.value
    )
    assert "of which 2.00 GiB is free" in str(caught.value)
    assert "4.00 GiB is allocated by PyTorch" in str(caught.value)
    assert (card.allocated, card.cached) == (0, 4 * GIB)


def test_memory_lives_as_long_as_its_block() -> None:
    """A block that a traceback still holds is not free; without it, it is in the cache."""
    card = FakeCard(12 * GIB)

    def stage() -> None:
        first = card.allocate(8 * GIB)
        card.allocate(8 * GIB)
        assert first

    try:
        stage()
    except torch.OutOfMemoryError:
        gc.collect()
        assert card.allocated == 8 * GIB
    gc.collect()
    assert card.allocated == 0
    assert card.empty_cache() == 8 * GIB


def test_the_cache_is_used_before_it_is_emptied() -> None:
    """Freed memory is taken again, and the cache is given up where it does not help."""
    card = FakeCard(10 * GIB)
    with card.use(6 * GIB):
        pass
    with card.use(5 * GIB):
        assert (card.allocated, card.reserved) == (5 * GIB, 6 * GIB)
    card.neighbour = 4 * GIB
    with card.use(6 * GIB):
        assert card.reserved == 6 * GIB


def test_a_chosen_allocation_fails() -> None:
    """The N-th allocation can be made to fail, and the next one works again."""
    card = FakeCard(10 * GIB)
    card.fail_at = {2}
    for number in (1, 2, 3):
        if number == 2:
            with pytest.raises(torch.OutOfMemoryError):
                card.allocate(1)
        else:
            assert card.allocate(1).size == 1


def test_another_librarys_error() -> None:
    """The error can be another library's."""
    card = FakeCard(1)
    card.raises = lambda _text: RuntimeError("CUDA failed with error out of memory")
    with pytest.raises(RuntimeError, match="CUDA failed"):
        card.allocate(2)


def test_the_end_of_a_process_frees_everything() -> None:
    """After the worker's end nothing of ours is on the card, whatever still holds a block."""
    card = FakeCard(10 * GIB, context=GIB)
    block = card.allocate(GIB)
    card.outside = GIB
    assert card.own == 3 * GIB
    card.free_all()
    assert (card.own, card.free) == (0, 10 * GIB)
    del block
    assert card.cached == 0
