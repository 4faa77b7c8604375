"""Write all log lines, ours and the libraries', in one format to standard error. They name scan ids, never files."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

import structlog
import structlog.tracebacks

# Libraries that log too much at INFO, or log the contents of messages.
QUIET_LOGGERS: Final = (
    "celery", "kombu", "amqp", "alembic", "sqlalchemy", "watchdog", "PIL", "tensorflow", "absl", "h5py", "httpx",
    "httpcore", "highdicom", "uvicorn",
)  # fmt: skip


# A second descriptor of standard error, so that `silence_stderr` silences libraries but not our own logs.
STDERR: Final[TextIO] = os.fdopen(os.dup(2), "w", 1, "utf-8", "backslashreplace", closefd=False)


# Without the variables of each frame: they hold paths of images and passwords of brokers.
_TRACEBACKS: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Discard what libraries write to file descriptor 2 directly.

    TensorFlow does so while it is loaded, before any setting that quietens it applies. Exceptions and our own logs are
    not affected.
    """
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
    """Set up structlog and the standard library's logging alike. Each command that logs calls this once."""
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
