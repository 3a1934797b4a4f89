"""Which file system a folder lies on, and whether it is still the one that it was.

`/proc/self/mountinfo` is the source: it tells at once that a share is gone, where a look at the
bare mount point underneath would only show an empty folder.
"""

import os
import re
import stat

import msgspec

from pipeline.core.errors import Transient
from pipeline.core.text import shown

MOUNTINFO = b"/proc/self/mountinfo"
# Events arrive, leases work and inode numbers stay. (FAT is left out: it makes its inode numbers up
# anew whenever memory runs short.) What is not listed here is treated like a share.
LOCAL = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "nilfs2", "reiserfs",
    "tmpfs", "ramfs", "rootfs", "devtmpfs", "overlay", "ntfs3", "hfsplus", "udf", "iso9660",
    "squashfs", "erofs",
})  # fmt: skip
SHARED = frozenset({
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs",
    "lustre", "gfs2", "ocfs2", "beegfs", "gpfs", "coda", "ncpfs", "davfs", "vboxsf", "vmhgfs",
    "prl_fs", "drvfs",
})  # fmt: skip
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One line of mountinfo. `device` is "major:minor"; `number` and `parent` make up the tree."""

    point: bytes
    fstype: str
    source: str
    device: str
    number: int = 0
    parent: int = 0

    @property
    def local(self) -> bool:
        """True if every change passes this kernel: events, leases and inode numbers can be used."""
        return self.fstype in LOCAL

    @property
    def pin(self) -> str:
        """Identity that survives a remount and a restart of the machine.

        The kernel numbers its disks anew at each start (`/dev/sdb1` becomes `/dev/sdc1`), so the
        mount point stands for them; a share and a mapped volume have a lasting name.
        """
        passing = self.source.startswith("/dev/") and not self.source.startswith("/dev/mapper/")
        source = "disk" if passing else self.source
        return f"{self.fstype} {source} at {shown(self.point)}"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a watched folder really lies. `inode` is 0 where inode numbers mean nothing."""

    real: bytes  # without symbolic links
    mount: Mount
    local: bool  # this mount and all that lie below the folder
    device: int
    inode: int


UNKNOWN = Mount(point=b"/", fstype="unknown", source="unknown", device="0:0")


def parse_mounts(text: bytes) -> tuple[Mount, ...]:
    """The mounts in the order of mountinfo; lines that can not be understood are left out."""
    found: list[Mount] = []
    for line in text.splitlines():
        head, dash, tail = line.partition(b" - ")
        fields, kind = head.split(b" "), tail.split(b" ")
        if not dash or len(fields) < 5 or len(kind) < 2:
            continue
        if not (fields[0].isdigit() and fields[1].isdigit()):
            continue
        found.append(
            Mount(
                point=_plain(fields[4]),
                fstype=shown(_plain(kind[0])),
                source=shown(_plain(kind[1])),
                device=shown(fields[2]),
                number=int(fields[0]),
                parent=int(fields[1]),
            )
        )
    return tuple(found)


def _plain(field: bytes) -> bytes:
    """A field without its octal escapes: a blank in a name is written as `\\040`."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def mount_of(path: bytes, mounts: tuple[Mount, ...]) -> Mount:
    """The mount that an absolute path without symbolic links lies on.

    Walks down the tree as the kernel does: a mount over a parent folder hides older ones below it.
    """
    covering = [mount for mount in mounts if _covers(mount.point, path)]
    if not covering:
        return UNKNOWN
    numbers = {mount.number for mount in covering}
    tops = [mount for mount in covering if mount.parent not in numbers]
    if not tops:
        return max(reversed(covering), key=lambda mount: len(mount.point))
    here = min(tops, key=lambda mount: len(mount.point))
    for _step in covering:
        below = [mount for mount in covering if mount.parent == here.number and mount != here]
        if not below:
            break
        here = min(below, key=lambda mount: len(mount.point))
    return here


def _covers(point: bytes, path: bytes) -> bool:
    return point in (b"/", path) or path.startswith(point + b"/")


def read_mounts() -> tuple[Mount, ...]:
    """The mounts that this process sees now; none where there is no mountinfo."""
    try:
        with open(MOUNTINFO, "rb") as file:
            return parse_mounts(file.read())
    except FileNotFoundError:
        return ()


def is_network(path: bytes) -> bool:
    """True if the path, which need not be there yet, lies on a share: no place for a ledger."""
    fstype = mount_of(os.path.realpath(path), read_mounts()).fstype
    return fstype in SHARED or fstype.startswith("fuse.")


def find_place(root: bytes, *, require_mount: bool = False) -> Place:
    """Where the watched folder lies now; raises Transient if it is not there as it should be."""
    try:
        # Opening wakes an automount; a stat would only see its empty trigger.
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            here = os.fstat(fd)
        finally:
            os.close(fd)
        real = os.path.realpath(root)
        mounts = read_mounts()
        mount = mount_of(real, mounts)
        if require_mount and mount.point != real and not _device_changes(real, here):
            raise Transient(
                f"{shown(root)} is not a mount point, and its watch says require_mount",
                "mount the share",
            )
    except FileNotFoundError as error:
        raise Transient(
            f"the folder {shown(root)} is not there", "mount the share or make the folder"
        ) from error
    except NotADirectoryError as error:
        raise Transient(f"{shown(root)} is not a folder", "put a folder there") from error
    except OSError as error:
        raise outage(root, error) from error
    # A share mounted below a watched local folder makes all of it slow and silent.
    inner = [other for other in mounts if other.point.startswith(real.rstrip(b"/") + b"/")]
    local = mount.local and all(other.local for other in inner)
    return Place(
        real=real,
        mount=mount,
        local=local,
        device=here.st_dev,
        inode=here.st_ino if local else 0,
    )


def _device_changes(real: bytes, here: os.stat_result) -> bool:
    above = os.stat(os.path.dirname(real), follow_symlinks=False)
    return stat.S_ISDIR(above.st_mode) and above.st_dev != here.st_dev


def outage(root: bytes, error: OSError) -> Transient:
    """An error of the watched folder itself, in plain words."""
    if isinstance(error, PermissionError):
        return Transient(
            f"the folder {shown(root)} can not be read: permission denied",
            "give the service's user the right to read it",
        )
    text = error.strerror or type(error).__name__
    return Transient(f"the folder {shown(root)} can not be read: {text}", "check the disk or share")


def replaced(pin: str, now: Mount) -> str:
    """Why a folder pinned to another mount must not be touched; "" if it may.

    A mount that was put over the folder is taken as the folder's new place; a mount that went away
    or was exchanged is not, because what lies underneath would look like "everything was deleted".
    """
    point = pin.partition(" at /")[2].rstrip("/")
    above = f"/{point}/" if point else "/"
    if not pin or now.pin == pin or shown(now.point).startswith(above):
        return ""
    return f"the folder was on {pin} and is now on {now.pin}: mount it again"
