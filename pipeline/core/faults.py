"""Which errors mean that memory ran out, in every library's words: a pure reader of texts.

The order is the rule: a broken context, a lost card, a dead process, what only sounds like
memory, memory, and last the words that may mean either, where a measurement decides.
"""

import re
import signal
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from pipeline.core import fault_words as faulty
from pipeline.core import memory_words as memory
from pipeline.core.fault_text import denied, only_mentioned, plain, quiet, unfolded
from pipeline.core.fault_words import Advice, Rule

MIB = 1 << 20
SHORT_BYTES = 512 * MIB  # less than this free on the card is short, and so is
SHORT_SHARE = 0.04  # less than this share of it


class Kind(StrEnum):
    """What an error asks for."""

    RECOVER = "recover"  # clean up, then smaller, in this process
    REPLACE_WORKER = "replace_worker"  # this process can not be trusted, or is dead
    NOT_MEMORY = "not_memory"
    DEVICE_LOST = "device_lost"  # no process can use the card now


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What an error is, who said it, and what that means in plain words."""

    kind: Kind
    library: str = "unknown"
    host: bool = False  # the host's memory ran out, not the card's
    reason: str = "nothing in the text speaks of memory"
    hint: str = ""
    check_device: bool = False  # a GPU library failed: try the card before the next use


def classify(text: str, *, free: int | None = None, total: int | None = None) -> Kind:
    """What an error text asks for; `free` and `total` of the card in bytes, just before it."""
    return find(text, free=free, total=total).kind


def library(text: str) -> str:
    """Which library speaks: torch, cublas, ctranslate2, llama.cpp, nvenc, host, ... or unknown."""
    return _library(plain(text))


def find(text: str, *, free: int | None = None, total: int | None = None) -> Finding:
    """What an error text says: a line, a whole chain of causes, or the tail of a stderr.

    `free` and `total` are bytes of the card, measured in the second before the failure. They
    decide where words alone can not; without them such words get their usual meaning.
    """
    ready = plain(text)
    found = _find(ready, free, total)
    if found is None and "\n" in ready and (whole := unfolded(ready)):
        found = _find(whole, free, total, least=faulty.SURE)
    if found is not None:
        return found
    suspect = bool(memory.SUSPECT.search(ready))
    return Finding(kind=Kind.NOT_MEMORY, library=_library(ready), check_device=suspect)


def from_exit(status: int, tail: Sequence[str], oom_kills: int | None) -> Finding:
    """How a child ended: its return code (-9 or 137 for a kill), its last lines of stderr.

    `oom_kills` is how much the kernel's count of memory kills in its cgroup grew meanwhile; None
    if there is no such count. A child that a signal ended is gone: REPLACE_WORKER or worse.
    """
    said = find("\n".join(tail))
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if status == 0:
        return Finding(kind=Kind.NOT_MEMORY, library="host", reason="the process ended well")
    if number not in signal.valid_signals():
        return said
    if said.kind is Kind.DEVICE_LOST:
        return said
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL:
        return _killed(oom_kills)
    reason = f"the process died of {name}"
    if said.kind is not Kind.NOT_MEMORY:
        reason += f": {said.reason}"
    return Finding(
        kind=Kind.REPLACE_WORKER, library=said.library, host=said.host, reason=reason,
        hint=faulty.DIED.hint, check_device=said.check_device,
    )  # fmt: skip


def _killed(oom_kills: int | None) -> Finding:
    if oom_kills:
        reason, host = "the kernel killed the process: the host ran out of memory", True
    elif oom_kills is None:
        reason, host = "the process was killed, most likely because the host's memory ran out", True
    else:
        reason, host = "somebody killed the process; the kernel counted no lack of memory", False
    return Finding(
        kind=Kind.REPLACE_WORKER, library="host", host=host, reason=reason, hint=faulty.KILLED.hint
    )


def _find(text: str, free: int | None, total: int | None, least: int = 1) -> Finding | None:
    for rules, kind in (
        (faulty.STICKY, Kind.REPLACE_WORKER),
        (faulty.DEVICE_LOST, Kind.DEVICE_LOST),
        (faulty.DYING, Kind.REPLACE_WORKER),
        (faulty.NEVER_MEMORY, Kind.NOT_MEMORY),
        (memory.SHARED_MEMORY, Kind.RECOVER),
    ):
        rule = _first(rules, text, least)
        if rule:
            return _finding(kind, rule, text)
    whole = text
    text, passed = _without_passed_over(whole)
    rule = _first(memory.OUT_OF_MEMORY, text, least)
    if rule:
        return _finding(Kind.RECOVER, rule, text)
    rule = _first(memory.AMBIGUOUS, text, least)
    if rule:
        return _measured(rule, text, free, total)
    if passed and passed.advice is faulty.SESSIONS and _short(free, total):
        return Finding(
            kind=Kind.RECOVER, library="nvenc", reason=memory.CARD_FULL.reason,
            hint="fewer surfaces, or encode on the CPU",
        )  # fmt: skip
    return _finding(Kind.NOT_MEMORY, passed, whole) if passed else None


def _first(rules: Sequence[Rule], text: str, least: int) -> Rule | None:
    """The first rule whose words are there and meant."""
    for rule in rules:
        if rule.sure >= least and any(
            _meant(rule, text, found) for found in rule.words.finditer(text)
        ):
            return rule
    return None


def _meant(rule: Rule, text: str, found: "re.Match[str]") -> bool:
    # Some rules find a subject first: `CUDA: no out of memory` is denied at the words, not at CUDA.
    part = "at" if found.groupdict().get("at") else 0
    begin, end = found.span(part)
    if denied(text, begin, end):
        return False
    if rule.sure < faulty.SURE and only_mentioned(text, begin, end):
        return False
    return rule.sure > faulty.BARE or not quiet(text, begin)


def _without_passed_over(text: str) -> tuple[str, Rule | None]:
    """The text without lines that only sound like memory, and the first rule that took one."""
    taken: Rule | None = None
    for rule in faulty.PASSED_OVER:
        spans = list(_lines_with(rule, text))
        if not spans:
            continue
        taken = taken or rule
        for begin, end in reversed(spans):
            text = text[:begin] + text[end:]
        if rule.advice is faulty.SESSIONS:  # ffmpeg repeats the driver's word as its own ENOMEM
            text = faulty.AFTER_SESSIONS.sub(" ", text)
    return text, taken


def _lines_with(rule: Rule, text: str) -> Iterator[tuple[int, int]]:
    last = -1
    for found in rule.words.finditer(text):
        begin = text.rfind("\n", 0, found.start()) + 1
        end = text.find("\n", found.end())
        if begin > last:
            last = end if end >= 0 else len(text)
            yield begin, last


def _measured(rule: Rule, text: str, free: int | None, total: int | None) -> Finding:
    if _short(free, total):
        return _finding(Kind.RECOVER, rule, text, memory.CARD_FULL)
    if free is None:
        kind = Kind.REPLACE_WORKER if rule.bad_otherwise else Kind.RECOVER
        return _finding(kind, rule, text)
    if not rule.bug_with_room:
        return _finding(Kind.REPLACE_WORKER, rule, text, faulty.POISONED)
    if total is not None and free > total // 2:
        bug = Advice("a GPU library failed with half the card free", "a mistake, not memory")
        return _finding(Kind.NOT_MEMORY, rule, text, bug)
    return _finding(Kind.RECOVER, rule, text, memory.CARD_FULL)


def _short(free: int | None, total: int | None) -> bool:
    return free is not None and free < max(SHORT_BYTES, SHORT_SHARE * (total or 0))


def _finding(kind: Kind, rule: Rule, text: str, advice: Advice | None = None) -> Finding:
    said = advice or rule.advice
    host = rule.host
    if rule.sure == faulty.BARE and memory.OF_THE_CARD.search(text):
        host, said = False, memory.CARD_FULL
    if rule.advice is faulty.DIED:
        host = bool(re.search(r"bad_?alloc|memoryerror|memory allocation of", text))
    return Finding(
        kind=kind, library=_library(text), host=host, reason=said.reason, hint=said.hint,
        check_device=kind is not Kind.NOT_MEMORY and not host,
    )  # fmt: skip


def _library(text: str) -> str:
    for name, words in memory.LIBRARIES:
        if words.search(text):
            return name
    return "unknown"
