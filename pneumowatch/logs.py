"""Log lines of every part, ours and the libraries', in one form on standard error. They name scan ids, never files."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

import structlog
import structlog.tracebacks

# Libraries that tell too much at INFO, or tell message contents.
QUIET_LOGGERS: Final = (
    "celery", "kombu", "amqp", "alembic", "sqlalchemy", "watchdog", "PIL", "tensorflow", "absl", "h5py", "httpx",
    "httpcore", "highdicom", "uvicorn",
)  # fmt: skip


# A descriptor of our own for standard error, so that `silence_stderr` can silence libraries without silencing us.
STDERR: Final[TextIO] = os.fdopen(os.dup(2), "w", 1, "utf-8", "backslashreplace", closefd=False)


# Without the variables of each frame, which hold paths of films and passwords of brokers.
_TRACEBACKS: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Send to nowhere what libraries write to file descriptor 2 itself, as TensorFlow's do while they are loaded,
    before any setting that quietens them is in force. Exceptions and our own logs are not touched."""
    sys.stderr.flush()
    saved_stderr = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
        os.close(devnull)


def configure(log_format: str = "console", level: int = logging.INFO) -> None:
    """Set up structlog and the standard library's logging alike. Called once by each command that logs."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(_TRACEBACKS), structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=STDERR.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    )
    handler = logging.StreamHandler(STDERR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
