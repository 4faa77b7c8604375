"""Lengths of time, as people say them."""

import re
from datetime import timedelta
from typing import Final

DISPLAY_UNITS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (2 * 60, 60, "min"))

INPUT_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """`12h`, `90d`, `8w`. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip())
    if match is None:
        raise ValueError(f"'{text}' is no length of time: write 12h, 90d or 8w")
    return timedelta(**{INPUT_UNITS[match[2]]: int(match[1])})


def format_duration(seconds: float) -> str:
    """`50 s`, `12 min`, `5 h`, `3 days`: the largest unit of which there are two at least, rounded down."""
    for threshold, unit, name in DISPLAY_UNITS:
        if seconds >= threshold:
            return f"{int(seconds // unit)} {name}"
    return f"{max(seconds, 0):.0f} s"
