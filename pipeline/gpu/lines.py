"""The lines about memory that people search the log for; GB are powers of ten."""

from pipeline.core.reading import Reading
from pipeline.gpu.pressure import Tier

GB = 1_000_000_000
UNKNOWN = "unknown"
_PRESSURE = {
    Tier.STANDARD: ("Medium", "performing standard cleanup"),
    Tier.AGGRESSIVE: ("High", "performing aggressive cleanup"),
    Tier.EMERGENCY: ("Critical", "performing emergency cleanup, admitting nothing new"),
    Tier.PAUSED: ("Critical", "paused, admitting nothing new"),
}


def check_line(used: int | None, required: int, available: int | None) -> str:
    """«Memory check: 8.2GB used, 2.1GB required, 4.7GB available», from bytes."""
    return f"Memory check: {_gb(used)} used, {_gb(required)} required, {_gb(available)} available"


def pressure_line(tier: Tier, share: float | None) -> str:
    """«Medium memory pressure (72.1%) - performing standard cleanup»."""
    word, follows = _PRESSURE.get(tier, ("Low", "nothing to do"))
    return f"{word} memory pressure ({_percent(share)}) - {follows}"


def tier_line(before: Tier, after: Tier, share: float | None, what: str = "GPU") -> str:
    """«GPU memory tier: normal -> standard (72.1%)»; `what` is GPU or host."""
    return f"{what} memory tier: {before} -> {after} ({_percent(share)})"


def freed_line(freed: int | None) -> str:
    """«GPU memory optimization completed - Freed 1.8GB», from bytes; less than nothing is 0."""
    return (
        f"GPU memory optimization completed - Freed {_gb(None if freed is None else max(0, freed))}"
    )


def card_line(reading: Reading) -> str:
    """«GPU Memory: 2.45GB / 8.00GB (30.6%)»: our share of the card."""
    own, total = reading.own, reading.total
    part = own / total if own is not None and total else None
    about = " (estimated)" if reading.own_estimated else ""
    return f"GPU Memory: {_gb(own, 2)} / {_gb(total, 2)} ({_percent(part)}){about}"


def _gb(size: int | None, digits: int = 1) -> str:
    return UNKNOWN if size is None else f"{size / GB:.{digits}f}GB"


def _percent(part: float | None) -> str:
    return UNKNOWN if part is None else f"{100 * part:.1f}%"
