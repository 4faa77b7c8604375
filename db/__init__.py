"""The ledger, and all that stands in the database beside it."""

from typing import Final

LARGEST_ID: Final = 2**63 - 1  # what its keys hold
