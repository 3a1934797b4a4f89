"""Every error that Penstock raises, in one tree, each with a reason and a next step.

PenstockError
├── ConfigError        the config can not be used                     exit status 78
├── BusyError          another daemon holds the state folder          exit status 75
├── LedgerError        the ledger can not be opened or trusted      exit status 74
├── LinkError          the worker can not be reached
└── JobError           a job's stage failed; `fault` says what follows
    ├── BadInput       never again: the file itself is the reason
    ├── NoMemory       one rung down: smaller, fresher, slower
    ├── NoSpace        a disk is full: wait until there is room
    ├── Transient      later: a share, a neighbour, a passing state
    ├── Poisoned       the worker's process can no longer be trusted
    ├── DeviceLost     the card is gone: go on without it
    ├── EngineMissing  a package or weights are not there; the hint is the command
    └── Cancelled      somebody asked, or the file changed
"""

from pipeline.core.contract import Fault


class PenstockError(Exception):
    """What happened (`reason`) and what to do next (`hint`), both in plain words."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason


class ConfigError(PenstockError):
    """The config can not be used; the reason names file, line and key."""


class BusyError(PenstockError):
    """Another daemon holds the state folder; the reason says who."""


class LedgerError(PenstockError):
    """The ledger can not be opened, or what it says can not be trusted."""


class LinkError(PenstockError):
    """The worker can not be started or reached."""


class JobError(PenstockError):
    """A stage failed; the class says what the queue does with the job."""

    fault = Fault.TRANSIENT


class BadInput(JobError):
    """The file itself is the reason; trying again would end the same way."""

    fault = Fault.BAD_INPUT


class NoMemory(JobError):
    """Memory ran out; the next attempt steps one rung down."""

    fault = Fault.NO_MEMORY


class NoSpace(JobError):
    """A disk is full; the job waits until there is room and loses no attempt."""

    fault = Fault.NO_SPACE


class Transient(JobError):
    """Something passing: a share that blinked, a neighbour that took the card."""

    fault = Fault.TRANSIENT


class EngineMissing(JobError):
    """A package or its weights are not there; the hint is the command that brings them."""

    fault = Fault.MISSING


class Poisoned(JobError):
    """A sticky device error: every later call in this process would fail or, worse, lie."""

    fault = Fault.STICKY


class DeviceLost(JobError):
    """The card is gone or refuses everybody; the job goes on without it."""

    fault = Fault.DEVICE


class Cancelled(JobError):
    """Somebody cancelled the job, or its file changed or went away."""

    fault = Fault.CANCELLED
