"""Durations as people write them."""

import re
from datetime import timedelta
from typing import Final

DISPLAY_UNITS: Final = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (2 * 60, 60, "min"))

INPUT_UNITS: Final = {"h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Parse `12h`, `90d` or `8w`. Raises ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a duration: write 12h, 90d or 8w")
    return timedelta(**{INPUT_UNITS[match[2]]: int(match[1])})


def format_duration(seconds: float) -> str:
    """Format as `50 s`, `12 min`, `5 h` or `3 days`: in the largest unit with at least two of them, rounded down."""
    for threshold, unit, name in DISPLAY_UNITS:
        if seconds >= threshold:
            return f"{int(seconds // unit)} {name}"
    return f"{max(seconds, 0):.0f} s"
