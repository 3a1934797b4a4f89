"""What the tests on a real card stand on, as far as it needs no card."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gpu import ballast, real_card, test_matrix_b, test_matrix_b_worker, trouble

SIZES = st.integers(0, 200 * real_card.GIB)


@given(SIZES, SIZES)
def test_a_ballast_lies_within_reach_of_what_was_asked(free: int, wanted: int) -> None:
    """Block by block it comes close to the bytes to leave free and never takes one of them."""
    begun = free
    while block := ballast.next_block(free, wanted):
        assert ballast.LEAST <= block <= ballast.BLOCK
        free -= block
    assert free == begun if begun <= wanted else 0 <= free - wanted < ballast.EXACT


def test_the_ballast_s_arguments() -> None:
    """Bytes to leave free must be given and above 0; its life is bounded unless said otherwise."""
    args = ballast.read_arguments(["--free", "6000000000"])
    assert (args.free, args.seconds) == (6_000_000_000, 240)


@pytest.mark.parametrize(
    "words", [[], ["--free", "0"], ["--free", "-5"], ["--free", "much"], ["--free", "1", "--x"]]
)
def test_a_ballast_refuses_other_arguments(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a sensible size it takes nothing and says what was wrong."""
    with pytest.raises(SystemExit) as ended:
        ballast.read_arguments(words)
    assert ended.value.code == 2
    assert "--free" in capsys.readouterr().err


def test_a_ballast_without_a_card_is_an_error_and_leaves_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ballast that can not lie is told at once, and its process is gone."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeError, match="ended before it lay"), ballast.Ballast(free=1):
        pass


def test_a_child_knows_its_troubles(capsys: pytest.CaptureFixture[str]) -> None:
    """Every trouble and `hold` can be asked for by name, nothing else."""
    for what in (*trouble.TROUBLES, "hold"):
        assert trouble.read_arguments([what]).what == what
    with pytest.raises(SystemExit):
        trouble.read_arguments(["bliss"])
    assert "bliss" in capsys.readouterr().err


def test_a_child_that_dies_is_told_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a child that ends without an answer the status and its last words are kept."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = trouble.run_trouble("none")
    assert told.status == 1
    assert any("CUDA" in line or "NVIDIA" in line for line in told.tail)


def test_a_child_s_allocator_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has set for torch's allocator does not reach ballast or children."""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert not [name for name in ballast.plain_environment() if "ALLOC_CONF" in name]


@pytest.mark.parametrize(
    ("built_for", "sees_card", "nvml", "reason"),
    [
        (None, False, "no driver", "built for the CPU only"),
        ("13.0", False, "the NVIDIA driver is not loaded", "driver is not loaded"),
        ("13.0", False, "", "sees no card"),
        ("13.0", True, "nvidia-ml-py is not installed", "nvidia-ml-py is not installed"),
    ],
)
def test_the_reason_to_skip_is_clear(
    built_for: str | None, sees_card: bool, nvml: str, reason: str
) -> None:
    """Without a usable card the reason says what is missing."""
    assert reason in real_card.skip_reason(built_for, sees_card, nvml)


def test_nothing_is_skipped_on_a_whole_card() -> None:
    """With torch, a card and the driver's answers there is no reason to skip."""
    assert real_card.skip_reason("13.0", True, "") == ""


def test_a_bound_ends_a_test_that_hangs() -> None:
    """A bounded call that waits for ever is ended, and the alarm is taken back afterwards."""

    @real_card.within(1)
    def hangs() -> None:
        time.sleep(60)

    with pytest.raises(TimeoutError, match="hangs took more than 1 s"):
        hangs()
    real_card.BOUNDS.pop(f"{__name__}.{hangs.__qualname__}")


def test_every_test_on_the_card_is_bounded_and_all_fit() -> None:
    """Each has a bound of its own, and all of them together stay below 9 minutes."""
    for module in (test_matrix_b, test_matrix_b_worker):
        names = {name for name in vars(module) if name.startswith("test_")}
        bounded = {name.rpartition(".")[2] for name in real_card.BOUNDS if module.__name__ in name}
        assert names - bounded == {"test_the_figures_are_printed"}
    assert sum(real_card.BOUNDS.values()) <= real_card.ALL_SECONDS


def test_the_table_is_markdown() -> None:
    """One row a figure; bars and line ends of error texts can not break it."""
    figures = real_card.Figures()
    figures.add("OOM", "CUDA | out\nof memory")
    assert "| OOM | CUDA / out of memory |" in figures.table("B").splitlines()


@pytest.mark.slow
def test_without_a_card_everything_is_skipped_with_its_reason() -> None:
    """Where torch sees no card, `pytest -m gpu` skips every test on it and says why."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider",
         "tests/gpu/test_matrix_b.py", "tests/gpu/test_matrix_b_worker.py"],
        cwd=ballast.ROOT, env=ballast.plain_environment() | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "passed" not in done.stdout
    assert "built for the CPU only" in done.stdout or "sees no card" in done.stdout
