"""Lengths of time, as people say them."""

from typing import Final

STEPS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (2 * 60, 60, "min"))


def said(seconds: float) -> str:
    """`50 s`, `12 min`, `5 h`, `3 days`: the largest unit of which there are two at least, rounded down."""
    for least, unit, name in STEPS:
        if seconds >= least:
            return f"{int(seconds // unit)} {name}"
    return f"{max(seconds, 0):.0f} s"
