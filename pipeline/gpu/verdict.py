"""Whether a stage that was meant for the card really ran there, judged from measurements; pure.

`verified` and `not_used` need signals that can be read and agree. Where a signal is missing the
verdict is `unverified` and names it; silence of the driver is never taken for "not used".
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from pipeline.core.reading import Reading
from pipeline.core.text import human_bytes

ENOUGH = 3  # samples of use that must all be 0 before they mean anything: each covers < 1 s


class Word(StrEnum):
    """The verdict in one word."""

    VERIFIED = "verified"
    NOT_USED = "not_used"
    UNVERIFIED = "unverified"
    NOT_APPLICABLE = "not_applicable"  # the stage was not meant for the card


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """The framework's counters over one stage that ran inside this process. Sizes in bytes."""

    allocations: int  # blocks taken from the driver during the stage (`num_device_alloc`)
    before: int  # allocated when it began, and the peak was reset
    peak: int  # allocated at its highest

    @property
    def rose(self) -> bool:
        """Whether the stage put anything on the card."""
        return self.allocations > 0 or self.peak > self.before


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Did the stage use the card: what speaks for the verdict, and what could not be read.

    The figures are the highest that were seen; None if nothing was.
    """

    word: Word
    evidence: str = ""
    missing: str = ""
    own: int | None = None  # bytes of the card that we held
    gpu_percent: int | None = None

    def __str__(self) -> str:
        why = self.missing if self.word is Word.UNVERIFIED else self.evidence
        return f"{self.word} ({why})" if why else str(self.word)


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """One signal: yes, no, or None for "can not be told"; and what it is called."""

    says: bool | None
    text: str  # what was seen, or what is missing


def of_stage(
    device: str,
    samples: Sequence[Reading] = (),
    *,
    counters: Counters | None = None,
    weights: int | None = None,
    ran_on: str = "",
    encoder: bool = False,
) -> Verdict:
    """The verdict on a stage that was meant for `device` ("cuda…", or "cpu": then there is none).

    `samples`: readings from before, during and after it, in that order. `counters`: only of a stage
    whose framework ran in this process, else None. `weights`: bytes that it was expected to put on
    the card. `ran_on`: the device that the engine itself reports, if it does. `encoder`: it used
    the card's video encoder rather than its processors.
    """
    highest = _highest([sample.own for sample in samples])
    percent = _highest([sample.gpu_percent for sample in samples])

    def verdict(word: Word, *, evidence: str = "", missing: str = "") -> Verdict:
        return Verdict(
            word=word, evidence=evidence, missing=missing, own=highest, gpu_percent=percent
        )

    if device.startswith("cpu"):
        return verdict(Word.NOT_APPLICABLE, evidence="meant for the CPU")
    if ran_on.startswith("cpu"):
        return verdict(Word.NOT_USED, evidence="the engine says that it ran on the CPU")
    if encoder:
        return _of_encoder(samples, verdict)
    there = _there(samples, weights)
    counted = _counted(counters)
    uses = (counted, _own_use(samples), _card_use(samples))
    return _judged(there, counted, uses, _enough_alone(counters, weights), verdict)


def _judged(
    there: Sign,
    counted: Sign,
    uses: tuple[Sign, ...],
    alone: bool,
    verdict: Callable[..., Verdict],
) -> Verdict:
    active = [sign.text for sign in uses if sign.says]
    if active and (there.says is False or counted.says is False):
        against = [sign.text for sign in (there, counted) if sign.says is False]
        disagree = f"signals disagree: {'; '.join(against)}, but {'; '.join(active)}"
        return verdict(Word.UNVERIFIED, missing=disagree)
    if active and there.says:
        return verdict(Word.VERIFIED, evidence=f"{there.text}; {'; '.join(active)}")
    if there.says is None and alone:
        return verdict(Word.VERIFIED, evidence=counted.text)
    idle = [sign.text for sign in uses if sign.says is False]
    # To be in the list proves little if an earlier stage's model is: then the framework's own
    # counters must say no as well. Not to be in it at all is decisive, with one more "no".
    absent = there.says is False or counted.says is False
    if not active and idle and absent and len(idle) + (there.says is False) >= 2:
        said = [there.text] if there.says is False else []
        return verdict(Word.NOT_USED, evidence="; ".join(said + idle))
    open_ones = (there, *(() if active else uses))
    missing = [sign.text for sign in open_ones if sign.says is None]
    return verdict(Word.UNVERIFIED, missing="; ".join(missing))


def _there(samples: Sequence[Reading], weights: int | None) -> Sign:
    """Whether a process of ours held at least half of the weights on the card."""
    listed = [sample for sample in samples if sample.listed]
    most = _highest([sample.own for sample in listed if not sample.own_estimated])
    need = max(1, (weights or 0) // 2)
    if most is not None and most >= need:
        return Sign(says=True, text=f"our processes held {human_bytes(most)} of the card")
    if most is not None:
        text = f"memory: our processes held {human_bytes(most)}, expected {human_bytes(need)}"
        return Sign(says=None, text=text)
    if listed:
        return Sign(says=None, text="memory: the driver does not tell what our processes hold")
    known = [sample for sample in samples if sample.listed is not None]
    if len(known) < len(samples) or not known:
        return Sign(says=None, text="our processes: the driver does not list them here")
    if len(known) < ENOUGH:
        return Sign(says=None, text=f"our processes: only {len(known)} looks at the driver's list")
    return Sign(says=False, text="no process of ours was on the card")


def _counted(counters: Counters | None) -> Sign:
    if counters is None:
        return Sign(says=None, text="allocator counters")
    if counters.rose:
        text = f"the framework allocated up to {human_bytes(counters.peak)} there"
        return Sign(says=True, text=text)
    return Sign(says=False, text="the framework allocated nothing there")


def _enough_alone(counters: Counters | None, weights: int | None) -> bool:
    """The counters prove it by themselves: half of the weights lay there, and more was added."""
    return counters is not None and counters.rose and counters.peak >= max(1, (weights or 0) // 2)


def _own_use(samples: Sequence[Reading]) -> Sign:
    """The use of the card by our processes. The first sample is about the time before the stage."""
    return _use([sample.own_percent for sample in samples[1:]], "use by our processes")


def _card_use(samples: Sequence[Reading]) -> Sign:
    """The use of the whole card, which is ours only if nobody else is there."""
    during = samples[1:]
    what = "use of the card"
    if any(sample.gpu_percent and sample.others != 0 for sample in during):
        return Sign(says=None, text=f"{what}: others use it too")
    return _use([sample.gpu_percent for sample in during], what)


def _use(values: Sequence[int | None], what: str) -> Sign:
    known = [value for value in values if value is not None]
    if not known:
        return Sign(says=None, text=f"{what}: the driver does not tell")
    if max(known) > 0:
        return Sign(says=True, text=f"{what} up to {max(known)} %")
    if len(known) < ENOUGH:
        return Sign(says=None, text=f"{what}: only {len(known)} samples")
    return Sign(says=False, text=f"{what} 0 % in {len(known)} samples")


def _of_encoder(samples: Sequence[Reading], verdict: Callable[..., Verdict]) -> Verdict:
    during = [sample.own_sessions for sample in samples[1:]]
    known = [count for count in during if count is not None]
    if known and max(known) > 0:
        return verdict(Word.VERIFIED, evidence=f"{max(known)} encoder sessions of ours")
    if len(known) == len(during) and len(known) >= ENOUGH:
        return verdict(Word.NOT_USED, evidence=f"no encoder session in {len(known)} samples")
    gap = f"only {len(known)} samples" if known else "the driver does not tell"
    return verdict(Word.UNVERIFIED, missing=f"encoder sessions: {gap}")


def warning(stage: str, verdict: Verdict) -> str:
    """The loud line for the log and the report; empty where there is nothing to warn of."""
    if verdict.word is Word.NOT_USED:
        return f"{stage} was meant for the card and ran without it: {verdict.evidence}"
    if verdict.word is Word.UNVERIFIED:
        return f"{stage}: whether the card was used can not be told; missing: {verdict.missing}"
    return ""


def _highest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
