"""What memory and the card look like right now: this process tree, host RAM, NVML.

Every figure is None where it can not be known, and reading never raises: a container, a card
without NVML or an old kernel leaves gaps, not errors.
"""

import msgspec

from pipeline.core.card import Card, Look, open_card, why
from pipeline.core.contract import Usage
from pipeline.core.host_memory import limits_of, ram_free, ram_total, stalled
from pipeline.core.processes import process_tree, resident, total, under_wsl
from pipeline.core.reading import Reading

__all__ = ["Card", "Gauge", "open_card", "process_tree", "resident", "total", "why"]

MB = 1_000_000


class Gauge:
    """Reads this process, its children, the host and, if asked to, the card it was given.

    With `gpu=False` NVML is never touched. `card` is for tests: a card to read instead.
    """

    def __init__(self, gpu: bool, card: Card | None = None) -> None:
        self._limits = limits_of()
        self.why_no_gpu = "" if card else "the card is not asked for"  # in plain words
        if gpu and card is None:
            card, self.why_no_gpu = open_card()
        self._take(card)

    def _take(self, card: Card | None) -> None:
        self._card = card
        self._unified = card is not None and card.unified()
        self.rebase()

    def look_again(self) -> str:
        """Find the card that was lost or not there yet; the reason why there is none, or empty."""
        if self._card is None or self._card.lost():
            if self._card:
                self._card.close()
            card, self.why_no_gpu = open_card()
            self._take(card)
        return self.why_no_gpu

    def rebase(self) -> None:
        """Nothing of ours lies on the card now: what is free here is where estimates count from."""
        self._baseline: int | None = self._card.free() if self._card else None

    def read(self) -> Usage:
        """One reading, cheap enough for every second."""
        pids = process_tree()
        card = self._card
        return Usage(
            rss=total(resident(pid) for pid in pids),
            ram_free=ram_free(self._limits),
            vram=card.used_by(pids) if card else None,
            vram_free=card.free() if card else None,
            gpu=card.utilisation() if card else None,
        )

    def reading(
        self,
        now: float,
        *,
        allocated: int | None = None,
        reserved: int | None = None,
        free: int | None = None,
        total_size: int | None = None,
    ) -> Reading:
        """Everything about memory at `now` (monotonic seconds).

        The framework's own figures come from the caller, in bytes: what it has `allocated` and
        `reserved`, and its idea of what is `free` of `total_size`, used where NVML is silent.
        """
        pids = process_tree()
        look = self._card.look(pids) if self._card else Look()
        told = Reading(
            at=now,
            total=look.total if look.total is not None else total_size,
            free=look.free if look.free is not None else free,
            listed=look.listed,
            others=look.others,
            allocated=allocated,
            reserved=reserved,
            gpu_percent=look.gpu_percent,
            own_percent=look.own_percent,
            encoder_sessions=look.encoder_sessions,
            own_sessions=look.own_sessions,
            unified=self._unified,
            host_total=ram_total(self._limits),
            host_free=ram_free(self._limits),
            host_own=total(resident(pid) for pid in pids),
            stalled=stalled(self._limits),
        )
        return (
            one_budget(told, look.own) if told.unified else with_own(told, look.own, self._baseline)
        )

    def gpu_name(self) -> str | None:
        """The card's name, e.g. `NVIDIA GeForce RTX 3060`."""
        return self._card.name() if self._card else None

    def driver(self) -> str | None:
        """The driver's version, e.g. `580.95.05`."""
        return self._card.driver() if self._card else None

    def lost(self) -> bool:
        """Whether the driver had a card for us and has lost it."""
        return self._card is not None and self._card.lost()

    def gaps(self) -> dict[str, str]:
        """What the driver did not tell at the last look, each with its reason, for the log."""
        return dict(self._card.gaps) if self._card else {}

    def reserve(self) -> int:
        """Bytes of the card to leave alone: for the driver, a screen, a shared memory."""
        size = 600 * MB if under_wsl() else 400 * MB
        if self._card and self._card.display():
            size = 1500 * MB
        return 2 * size if self._unified else size


def with_own(told: Reading, own: int | None, baseline: int | None) -> Reading:
    """The reading with our share: as the driver says, else estimated from what is known.

    A driver that gives us less than our framework holds has counted other processes than ours.
    """
    if own is not None and own >= (told.reserved or 0):
        return _changed(told, own=own)
    fallen = None
    if baseline is not None and told.free is not None:
        fallen = max(0, baseline - told.free)
    known = [size for size in (own, told.reserved, fallen) if size is not None]
    if not known:
        return told
    # That we are not on such a list says nothing.
    return _changed(told, own=max(known), own_estimated=True, listed=told.listed or None)


def one_budget(told: Reading, own: int | None) -> Reading:
    """The reading of a machine with one memory for card and host: the host's figures for both.

    Some drivers count the card's share as RAM of the process and some do not; the sum is never
    taken for more than everybody together holds.
    """
    card = own if own is not None else told.reserved
    known = total((card, told.host_own))
    if known is not None and told.host_total is not None and told.host_free is not None:
        held = max(told.host_total - told.host_free, told.host_own or 0)
        known = min(known, held)
    return _changed(
        told,
        total=told.host_total,
        free=told.host_free,
        own=known,
        own_estimated=own is None and known is not None,
    )


def _changed(reading: Reading, **fields: int | bool | None) -> Reading:
    return msgspec.structs.replace(reading, **fields)
