"""Profiles: the figures that people expect, and the one that fits a machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gpu.profiles import PROFILES, choose, named, videos_together, workers

GB = 1_000_000_000
HOUR = 3600.0


def test_the_figures_of_before() -> None:
    """Each profile has the batches and limits that its users know."""
    known = {
        name: (p.video_batch, p.video_batch_most, p.whisper_batch, p.llm_batch)
        for name, p in PROFILES.items()
    }
    assert known["rtx3060"] == (2, 3, 8, 4)
    assert known["high_performance"] == (3, 4, 16, 8)
    assert known["balanced"] == (2, 2, 6, 4)
    assert known["max_stability"] == (1, 1, 4, 2)
    assert (PROFILES["rtx3060"].budget_gb, PROFILES["rtx3060"].fraction) == (11.0, 0.85)
    audio = {name: (p.fraction, p.audio_batch, p.workers) for name, p in PROFILES.items()}
    assert audio["high_end"] == (0.8, 4, 8)
    assert audio["mid_range"] == (0.6, 2, 4)
    assert audio["cpu_only"] == (0.0, 1, 2)
    assert named("low_end") is PROFILES["cpu_only"]
    assert named("auto") is None


def test_profiles_agree_with_themselves() -> None:
    """No profile begins above its most, falls to more in an emergency, or uses a whole card."""
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert 1 <= profile.video_batch <= profile.video_batch_most
        assert 1 <= profile.emergency_whisper_batch <= profile.whisper_batch
        assert 1 <= profile.emergency_llm_batch <= profile.llm_batch
        assert 0.0 <= profile.fraction <= 0.85
        assert profile.audio_batch >= 1


def test_a_budget_is_the_smaller_of_both() -> None:
    """A 12 GB card gives the 3060's profile 11.0 GB, a smaller card its fraction, none nothing."""
    profile = PROFILES["rtx3060"]
    assert profile.budget(12884901888) == int(0.85 * 12884901888)
    assert profile.budget(24 * GB) == 11 * GB
    assert profile.budget(8 * GB) == int(6.8 * GB)
    assert profile.budget(None) is None
    assert PROFILES["cpu_only"].budget(24 * GB) == 0


@pytest.mark.parametrize(
    ("card_gib", "ram", "cores", "name"),
    [
        (None, 64, 32, "cpu_only"),
        (0, 64, 32, "cpu_only"),
        (2, 16, 8, "cpu_only"),
        (4, 16, 8, "max_stability"),
        (6, 16, 8, "max_stability"),
        (8, 32, 12, "mid_range"),
        (12, 63, 12, "rtx3060"),
        (12, 6, 4, "max_stability"),
        (16, 32, 12, "balanced"),
        (24, 32, 12, "high_performance"),
        (24, 64, 16, "high_end"),
        (139, 128, 16, "high_end"),
    ],
)
def test_the_profile_that_fits(card_gib: float | None, ram: int, cores: int, name: str) -> None:
    """`auto` takes the profile by the card, with regard to RAM and cores."""
    card = None if card_gib is None else int(card_gib * (1 << 30))
    assert choose(card, ram * GB, cores).name == name


@given(st.none() | st.integers(0, 10**13), st.integers(0, 10**14), st.integers(0, 512))
def test_every_machine_has_a_profile(card: int | None, ram: int, cores: int) -> None:
    """Whatever the machine is, one profile fits it, and its budget is within the card."""
    profile = choose(card, ram, cores)
    budget = profile.budget(card)
    assert (budget is None) == (card is None)
    assert budget is None or 0 <= budget <= (card or 0)
    assert 1 <= workers(ram, cores) <= 6


def test_side_jobs_by_cores_and_ram() -> None:
    """Half of the cores, at most 6, 4 or 2 by the size of the machine, and at least one."""
    assert workers(24 * GB, 12) == 6
    assert workers(24 * GB, 11) == 4
    assert workers(64 * GB, 64) == 6
    assert workers(16 * GB, 8) == 4
    assert workers(15 * GB, 8) == 2
    assert workers(64 * GB, 2) == 1
    assert workers(64 * GB, 1) == 1


def test_long_films_go_alone() -> None:
    """Over two hours one film, from 90 minutes two, shorter as many as the profile allows."""
    profile = PROFILES["rtx3060"]
    assert videos_together(profile, 2 * HOUR + 1) == 1
    assert videos_together(profile, 2 * HOUR) == 2
    assert videos_together(profile, 1.5 * HOUR) == 2
    assert videos_together(profile, 1.5 * HOUR - 1) == 3
    assert videos_together(PROFILES["max_stability"], 60.0) == 1
    assert videos_together(PROFILES["max_stability"], 1.6 * HOUR) == 1


@given(st.none() | st.floats())
def test_an_unknown_length_goes_alone(seconds: float | None) -> None:
    """Whatever length is given, the number is valid; nonsense and unknown count as long."""
    together = videos_together(PROFILES["rtx3060"], seconds)
    assert 1 <= together <= 3
    if seconds is None or not seconds > 0:
        assert together == 1
