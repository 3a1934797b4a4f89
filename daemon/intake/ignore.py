"""Which names in a watch are nobody's drop: temporary, hidden, of a system, or Penstock's own."""

import re
from functools import lru_cache

from pipeline.core.text import shown, split_suffix

_PENSTOCK = "Penstock's own file"
_SYNCTHING = "a file of Syncthing"
_NAS = "a folder of the NAS's own"
_TRASH = "in a trash folder"
_MAC = "a file of macOS's own"
_WINDOWS = "a file of Windows' own"
_UNLINKED = "deleted, but still open somewhere"

# Each producing program writes these exactly so.
_NAMES = {
    b"@eaDir": _NAS,
    b"@tmp": _NAS,
    b"#recycle": _TRASH,
    b"#snapshot": _NAS,
    b"@Recycle": _TRASH,
    b"lost+found": "a folder of the file system's own",
    b".stfolder": _SYNCTHING,
    b".stversions": _SYNCTHING,
    b".stignore": _SYNCTHING,
    b".Spotlight-V100": _MAC,
    b"__MACOSX": _MAC,
}
# Windows and macOS keep names but not their case.
_NAMES_ANY_CASE = {
    b"thumbs.db": _WINDOWS,
    b"ehthumbs.db": _WINDOWS,
    b"desktop.ini": _WINDOWS,
    b"system volume information": _WINDOWS,
    b"$recycle.bin": _TRASH,
    b".ds_store": _MAC,
}
_STARTS = {
    b".penstock": _PENSTOCK,
    b".syncthing.": "a temporary name of Syncthing",
    b"~syncthing~": "a temporary name of Syncthing",
    b".Trash": _TRASH,
    b".nfs": _UNLINKED,
    b".smbdelete": _UNLINKED,
    b".fuse_hidden": _UNLINKED,
    b".goutputstream-": "a temporary name of GNOME",
    b".~lock.": "an office program's lock file",
    b"~$": "an office program's lock file",
    b"._": _MAC,
}
_ENDS = {
    b".penstock.json": "Penstock's own receipt",
    b".penstock.toml": "a ticket for Penstock, not a drop",
    b".FAILED.txt": "Penstock's own note about a failure",
}
_DOWNLOAD = "a download under way"
_ENDS_ANY_CASE = {
    b".part": _DOWNLOAD,
    b".partial": _DOWNLOAD,
    b".crdownload": _DOWNLOAD,
    b".opdownload": _DOWNLOAD,
    b".download": _DOWNLOAD,
    b".filepart": "a transfer under way",
    b".aria2": _DOWNLOAD,
    b".ytdl": _DOWNLOAD,
    b".!sync": "a transfer under way",
    b".bts": _DOWNLOAD,
    b".!ut": _DOWNLOAD,
    b".!qb": _DOWNLOAD,
    b".tmp": "a temporary name",
    b".temp": "a temporary name",
    b".swp": "an editor's swap file",
    b".mediad-part": "a temporary name",
}
# Written beside the final name, which a browser or torrent program may make first.
_BESIDE = (
    b".part", b".partial", b".crdownload", b".opdownload", b".download", b".filepart", b".aria2",
    b".!sync", b".bts", b".!ut", b".!qB",
)  # fmt: skip
_RSYNC = re.compile(rb"\..+\.[A-Za-z0-9]{6}", re.DOTALL)
# Firefox: talk.mp4 stays empty while talk.Xy3_abCd.mp4.part grows.
_FIREFOX_MARK = re.compile(rb"\.[A-Za-z0-9_-]{4,16}")


def why_ignored(name: bytes) -> str:
    """Why a name is not looked at, or "" if it is; name is relative to the watch.

    Every folder on the way counts: all that lies in `@eaDir/` or `.stfolder/` is ignored.
    """
    for part in name.split(b"/"):
        reason = _why_part(part)
        if reason:
            return reason
    return ""


def _why_part(part: bytes) -> str:
    lower = part.lower()
    reason = _NAMES.get(part) or _NAMES_ANY_CASE.get(lower, "")
    if reason:
        return reason
    if part.startswith(_ALL_STARTS):
        return next(why for start, why in _STARTS.items() if part.startswith(start))
    if part.endswith(_ALL_ENDS):
        return next(why for end, why in _ENDS.items() if part.endswith(end))
    if lower.endswith(_ALL_ENDS_ANY_CASE):
        return next(why for end, why in _ENDS_ANY_CASE.items() if lower.endswith(end))
    if part.startswith(b"."):
        return "a temporary name of rsync" if _RSYNC.fullmatch(part) else "hidden"
    return ""


# One call each instead of forty: a scan asks this for every file of a share.
_ALL_STARTS = tuple(_STARTS)
_ALL_ENDS = tuple(_ENDS)
_ALL_ENDS_ANY_CASE = tuple(_ENDS_ANY_CASE)


def why_unfinished(name: bytes, siblings: frozenset[bytes]) -> str:
    """Why a final name is not finished yet, or ""; siblings are the base names in its folder.

    Browsers make the final name first, empty, and write beside it.
    """
    base = name.rpartition(b"/")[2]
    partial = next((base + end for end in _BESIDE if base + end in siblings), None)
    if partial is None:
        stem, dot, suffix = base.rpartition(b".")
        if not dot:
            stem, suffix = base, b""
        head, tail = stem, dot + suffix + b".part"
        partial = next(
            (other for other in _partials(siblings) if _is_firefox_part(other, head, tail)), None
        )
    return f"{shown(partial)} beside it is still being written" if partial is not None else ""


@lru_cache(maxsize=4)  # one folder is asked about many times in a row
def _partials(siblings: frozenset[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(name for name in siblings if name.endswith(b".part")))


def _is_firefox_part(other: bytes, head: bytes, tail: bytes) -> bool:
    if len(other) <= len(head) + len(tail):
        return False
    if not (other.startswith(head) and other.endswith(tail)):
        return False
    return _FIREFOX_MARK.fullmatch(other, len(head), len(other) - len(tail)) is not None


def why_not_taken(name: bytes, takes: frozenset[bytes]) -> str:
    """Why the recipe has no use for a file of this suffix, or ""; empty takes takes every file."""
    if not takes:
        return ""
    _stem, suffix = split_suffix(name)
    if suffix in takes:
        return ""
    if not suffix:
        return "the name has no suffix, and the recipe goes by it"
    return f"the recipe does not take {shown(suffix)} files"
