"""Serve the review app with uvicorn in its own thread, with pneumowatch's logging."""

import logging
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import uvicorn

from pneumowatch.errors import SettingsError

START_TIMEOUT_SECONDS: Final = 30.0
SHUTDOWN_GRACE_SECONDS: Final = 5  # for open requests when the server stops
LISTEN_BACKLOG: Final = 128
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_CONNECTIONS: Final = 256  # further ones get 503, so that a worker in the same process keeps running


class Server:
    """Serves the review app while the context is open, in its own thread, so that the caller's thread stays free.

    Args:
        host: an address of this machine.
        port: 0 means any free port; so does a port in use if `allow_other_port`.
        tls: PEM files of the certificate and its key.

    Raises:
        SettingsError: it cannot listen there, or the certificate cannot be used.
    """

    def __init__(
        self,
        app: Any,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        allow_other_port: bool = False,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._socket = _listen(host, port, allow_other_port)
        self.port = int(self._socket.getsockname()[1])
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # ours leaves out URLs, which may name a patient
            proxy_headers=False,  # ours trusts PNEUMOWATCH_TRUSTED_PROXIES only
            server_header=False,
            lifespan="on",
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ssl_certfile=tls[0] if tls else None,
            ssl_keyfile=tls[1] if tls else None,
        )
        logging.getLogger("uvicorn.access").disabled = True  # a handler on the root logger would still get its lines
        try:
            config.load()
        except OSError as error:
            self._socket.close()
            raise SettingsError(f"The certificate or its key cannot be used: {error.strerror or error}.") from None
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="review-server", daemon=True
        )

    def __enter__(self) -> "Server":
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise SettingsError("The review app could not be started; see the log.")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()


def _listen(host: str, port: int, allow_other_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (port, 0) if allow_other_port else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, wanted))
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            fault = error
        else:
            return listener
    raise SettingsError(f"The review app cannot listen on {host}, port {port}: {fault.strerror}. Name another --port.")
