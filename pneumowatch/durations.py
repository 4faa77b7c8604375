"""Lengths of time, as people say them."""

import re
from datetime import timedelta
from typing import Final

STEPS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (2 * 60, 60, "min"))

UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}


def parsed(text: str) -> timedelta:
    """`12h`, `90d`, `8w`. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip())
    if found is None:
        raise ValueError(f"'{text}' is no length of time: write 12h, 90d or 8w")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def said(seconds: float) -> str:
    """`50 s`, `12 min`, `5 h`, `3 days`: the largest unit of which there are two at least, rounded down."""
    for least, unit, name in STEPS:
        if seconds >= least:
            return f"{int(seconds // unit)} {name}"
    return f"{max(seconds, 0):.0f} s"
