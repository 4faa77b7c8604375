"""Which names in a shared folder are no films: what copying programs and desktops leave beside them."""

from typing import Final

TEMPORARY_ENDINGS: Final = (
    b".part", b".partial", b".filepart", b".tmp", b".temp", b".crdownload", b".download", b".swp", b".lock", b"~",
)  # fmt: skip
SYSTEM_NAMES: Final = frozenset(
    {b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"$recycle.bin", b"system volume information"}
)


def ignore_rule(path: bytes) -> str | None:
    """The rule by which a path (relative to its inbox) is no scan, or None where it may be one.

    Every component counts: what lies in a hidden folder is hidden.
    """
    for part in path.lower().split(b"/"):
        if part.startswith(b"."):
            return "hidden"
        if part in SYSTEM_NAMES:
            return "system"
        if part.startswith((b"~$", b"~")) or part.endswith(TEMPORARY_ENDINGS):
            return "temporary"
    return None
