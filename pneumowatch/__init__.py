"""pneumowatch: triage of chest x-rays that arrive in a shared folder."""

__version__ = "0.1.0"
