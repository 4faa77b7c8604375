"""The review app: readers see flagged cases first, record verdicts, and see the state of the installation."""
