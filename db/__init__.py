"""The database: the ledger of scans and everything stored beside it."""

from typing import Final

LARGEST_ID: Final = 2**63 - 1  # the largest value of a key
