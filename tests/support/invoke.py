"""Run commands of the command line in this process, without a terminal."""

from typing import Final

from typer.testing import CliRunner

from cli import app

PATIENT: Final = "PAT-0815"  # of the first scan in the ledger that the maintenance commands are tested on


def call(*arguments: object, answers: str = "") -> tuple[int, str]:
    """Return exit code and output; raise what the command raised, SystemExit aside."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=answers)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output
