"""Mount tables as the kernel writes them, and the folder's place in them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.intake.mounts import (
    LOCAL,
    SHARED,
    UNKNOWN,
    Mount,
    find_place,
    is_network,
    mount_of,
    parse_mounts,
    read_mounts,
    replaced,
)
from pipeline.core.errors import Transient

TABLE = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 27 0:40 / /mnt/nas rw shared:7 master:2 - nfs4 nas:/media\040box rw,vers=4.2
41 27 8:17 /inbox /srv/my\040drops\134x rw - xfs /dev/sdb1 rw
42 40 0:42 / /mnt/nas/deep rw - cifs //win/share rw
43 27 0:43 / /over rw - tmpfs tmpfs rw
44 43 0:44 / /over rw - fuse.sshfs me@host: rw
45 27 0:45 / /late/nas rw - nfs nas:/late rw
46 27 0:46 / /late rw - ext4 /dev/mapper/vg-late rw
a line that makes no sense
47 27 0:47
"""
MOUNTS = parse_mounts(TABLE)


def at(path: bytes) -> Mount:
    return mount_of(path, MOUNTS)


def test_the_table_is_read_with_its_escapes() -> None:
    """Blanks and backslashes in names come out as they are; nonsense lines are left out."""
    assert len(MOUNTS) == 9
    assert at(b"/mnt/nas").source == "nas:/media box"
    assert at(rb"/srv/my drops\x/a").point == rb"/srv/my drops\x"
    assert at(rb"/srv/my drops\x").device == "8:17"


def test_the_innermost_mount_wins() -> None:
    """A path lies on the deepest mount above it, by whole names."""
    assert at(b"/proc/self").fstype == "proc"
    assert at(b"/mnt/nas/deep/er").fstype == "cifs"
    assert at(b"/mnt/nas/deeper").fstype == "nfs4"
    assert at(b"/mnt/nastier").point == b"/"


def test_a_later_mount_hides_an_earlier_one() -> None:
    """A mount over the same point, or over a parent of it, is what a path really meets."""
    assert at(b"/over/x").fstype == "fuse.sshfs"
    assert at(b"/late/nas/x").source == "/dev/mapper/vg-late"


def test_a_table_without_a_tree_still_answers() -> None:
    """Mounts without numbers go by the longest point, the last of equals; none is unknown."""
    plain = [
        Mount(point=point, fstype=fstype, source="x", device="0:0")
        for point, fstype in [(b"/", "ext4"), (b"/a", "xfs"), (b"/a", "nfs")]
    ]
    assert mount_of(b"/a/b", tuple(plain)).fstype == "nfs"
    assert mount_of(b"/b", tuple(plain)).fstype == "ext4"
    assert mount_of(b"/b", ()) == UNKNOWN


def test_only_what_is_known_to_be_local_is_local() -> None:
    """Shares, FUSE and everything unknown get the careful treatment."""
    assert not LOCAL & SHARED
    for fstype in ("ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "overlay"):
        assert Mount(point=b"/", fstype=fstype, source="", device="").local
    for fstype in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "virtiofs", "new-fs", "vfat"):
        assert not Mount(point=b"/", fstype=fstype, source="", device="").local


def test_a_pin_survives_a_new_disk_order_but_not_another_share() -> None:
    """The kernel's passing disk names are not part of the identity; a share's name is."""
    one = Mount(point=b"/data", fstype="ext4", source="/dev/sdb1", device="8:17")
    two = Mount(point=b"/data", fstype="ext4", source="/dev/sdc1", device="8:33")
    assert one.pin == two.pin == "ext4 disk at /data"
    assert at(b"/mnt/nas").pin == "nfs4 nas:/media box at /mnt/nas"
    assert at(b"/late").pin == "ext4 /dev/mapper/vg-late at /late"


def test_a_mount_that_went_away_or_was_exchanged_is_refused() -> None:
    """The bare mount point and another share at the same point are not the remembered place."""
    root, nas = at(b"/"), at(b"/mnt/nas")
    other = Mount(point=b"/mnt/nas", fstype="nfs4", source="nas:/other", device="0:99")
    assert "nfs4 nas:/media box at /mnt/nas" in replaced(nas.pin, root)
    assert replaced(nas.pin, other)
    assert replaced(nas.pin, nas) == ""
    assert replaced("", root) == ""


def test_a_mount_over_the_folder_becomes_its_place() -> None:
    """A share that is mounted late, over a folder seen bare, is taken."""
    assert replaced(at(b"/").pin, at(b"/mnt/nas")) == ""
    assert replaced(at(b"/mnt/nas").pin, at(b"/mnt/nas/deep")) == ""
    odd = Mount(point=b"/look at /me", fstype="nfs", source="n:/", device="0:1")
    assert replaced(odd.pin, at(b"/"))


@settings(max_examples=50)  # one costs milliseconds
@given(text=st.binary(max_size=300) | st.from_regex(rb"(\d+ \d+ \S+ / \S+ rw - \S+ \S+ rw\n)+"))
def test_any_table_is_read(text: bytes) -> None:
    """No mountinfo makes the reader or the search fail."""
    mounts = parse_mounts(text)
    assert mount_of(b"/some/where", mounts) in (*mounts, UNKNOWN)


def test_this_machine_has_mounts(room: bytes) -> None:
    """The kernel's own table names a mount for a real folder, and that is not a share."""
    assert mount_of(os.path.realpath(room), read_mounts()) != UNKNOWN
    assert not is_network(room)
    assert not is_network(os.path.join(room, b"not/there/yet"))


def test_a_place_is_found_through_a_link(room: bytes) -> None:
    """A root that is a link is followed, because the config chose it."""
    os.mkdir(room + b"/real")
    os.symlink(b"real", room + b"/link")
    place = find_place(room + b"/link")
    assert place.real == os.path.realpath(room + b"/real")
    assert place == find_place(room + b"/real")
    assert place.device == os.stat(room).st_dev


def test_a_place_that_is_not_right_is_explained(room: bytes) -> None:
    """Missing, no folder, not a mount: each is said in plain words."""
    with open(room + b"/file", "wb"):
        pass
    with pytest.raises(Transient, match="is not there"):
        find_place(room + b"/nowhere")
    with pytest.raises(Transient, match="is not a folder"):
        find_place(room + b"/file")
    with pytest.raises(Transient, match="is not a mount point"):
        find_place(room, require_mount=True)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A real tmpfs below tmp_path, taken away again whatever happens."""
    point = tmp_path / "mounted"
    point.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or not mount or not umount:
        pytest.skip("only root can mount")
    done = subprocess.run([mount, "-t", "tmpfs", "test-share", str(point)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"mount is not allowed here: {done.stderr.decode(errors='replace').strip()}")
    try:
        yield point
    finally:
        while os.path.ismount(point):
            subprocess.run([umount, "-l", str(point)], check=True)


def test_a_real_mount_is_seen(mounted: Path) -> None:
    """A mounted tmpfs is found, satisfies require_mount, and is missed when gone."""
    place = find_place(os.fsencode(mounted), require_mount=True)
    assert place.mount.pin == f"tmpfs test-share at {os.path.realpath(mounted)}"
    subprocess.run(["umount", str(mounted)], check=True)
    bare = find_place(os.fsencode(mounted))
    assert bare != place
    assert "mount it again" in replaced(place.mount.pin, bare.mount)
