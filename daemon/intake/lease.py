"""Whether a process on this machine has a file open for writing, asked with a read lease.

The kernel grants a read lease (fcntl F_SETLEASE, F_RDLCK) only on a file that nobody has open for
writing, so a refusal is proof of a writer, whoever it is: a copy, an SFTP or Samba server, a
recorder. The lease is given back at once.

What the caller must know:
- SIGIO must be ignored in this process (`signal.signal(SIGIO, SIG_IGN)`). Whoever opens the file
  in the moment between lease and release makes the kernel signal us, and SIGIO's default ends the
  process. As a second line the signal is moved to SIGURG, which is harmless unless handled.
- Do not ask on network or FUSE mounts: the kernel sees the writers of this machine only, so the
  answer NONE would be worth nothing there.
- The file must belong to the service's user, or the service needs CAP_LEASE; else it is UNKNOWN.
- A writer that opens with O_NONBLOCK in that same moment gets EWOULDBLOCK; a plain open waits the
  few microseconds.
"""

import errno
import fcntl
import signal
from enum import StrEnum


class Writer(StrEnum):
    """What is known about writers of a file on this machine."""

    NONE = "none"  # no process has it open for writing
    OPEN = "open"  # some process has
    UNKNOWN = "unknown"  # the file system, or our rights, do not let us ask


def writer_of(fd: int) -> Writer:
    """Whether anybody has the file open for writing; fd must be opened for reading only.

    Only EAGAIN proves a writer. Every other refusal says nothing, and nothing is not "no".
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return Writer.OPEN if error.errno == errno.EAGAIN else Writer.UNKNOWN
    return Writer.NONE
