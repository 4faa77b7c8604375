"""Rules for names in a shared folder that are not image files: leftovers of copy programs and operating systems."""

from typing import Final

TEMPORARY_ENDINGS: Final = (
    b".part", b".partial", b".filepart", b".tmp", b".temp", b".crdownload", b".download", b".swp", b".lock", b"~",
)  # fmt: skip
SYSTEM_NAMES: Final = frozenset(
    {b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"$recycle.bin", b"system volume information"}
)


def ignore_rule(path: bytes) -> str | None:
    """Return the rule that ignores a path (relative to its inbox), or None where it may be a scan.

    Every component of the path counts: a file in a hidden folder is hidden.
    """
    for part in path.lower().split(b"/"):
        if part.startswith(b"."):
            return "hidden"
        if part in SYSTEM_NAMES:
            return "system"
        if part.startswith((b"~$", b"~")) or part.endswith(TEMPORARY_ENDINGS):
            return "temporary"
    return None
