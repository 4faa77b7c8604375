"""`review`: serve the review app as a process of its own, for a deployment."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pneumowatch.errors import SettingsError

if TYPE_CHECKING:
    from pneumowatch.queue import Announcer
    from pneumowatch.settings import Settings

LIVENESS_POLL_SECONDS: Final = 1.0  # how often it is checked that the server's thread is alive


def review(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port (default: PNEUMOWATCH_REVIEW_PORT); 0: any free one.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file with the certificate and its chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with the certificate's key.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A reverse proxy terminates TLS; no browser connects directly.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="The data folder (default: PNEUMOWATCH_DATA_DIR, or ./data).")
    ] = None,
) -> None:
    """Serve the review app for readers: worklist, images, verdicts, upload, overview and models.

    [bold]pneumowatch users add[/bold] creates accounts. On any address other than loopback TLS is required: give a
    certificate and its key, or use a reverse proxy. If that proxy also signs users in, PNEUMOWATCH_TRUSTED_PROXIES
    names the addresses to trust.
    """
    from cli import signals
    from cli.connection import open_database
    from db import deployment, schema
    from db.health.heartbeat_writer import writing_heartbeats
    from db.session import Database
    from pneumowatch import inboxes, logs, settings
    from review.app import create_app
    from review.server import Server

    config = settings.load_settings(data_dir=data)
    logs.configure(config.log_format)
    tls = _require_tls(host, tls_cert, tls_key, behind_proxy)
    stop = signals.stop_event()
    with closing(Database(config.database, stop)) as database_for_checks:
        if not config.database_url:
            open_database(data)  # for its error where there is no ledger: connecting to SQLite would create one
        schema.require_current(database_for_checks)
        deployment.check_patient_key(database_for_checks, config)
    with closing(Database(config.database)) as database:
        app = create_app(
            config,
            database,
            inboxes=inboxes.configured(config),
            announcer=_announcer(config),
            behind_proxy=behind_proxy,
            tls=tls is not None,
        )
        with (
            writing_heartbeats(database) as writer,
            Server(app, host, config.review_port if port is None else port, tls=tls) as server,
        ):
            writer.add_component("review").set_status("serving")
            typer.echo(f"Review: {server.url}")
            while server.alive and not stop.wait(LIVENESS_POLL_SECONDS):
                pass
            if not server.alive:
                raise typer.Exit(1)


def _require_tls(host: str, certificate: Path | None, key: Path | None, behind_proxy: bool) -> tuple[Path, Path] | None:
    """Return certificate and key, or None. Raises SettingsError where images would be sent unencrypted."""
    from review.address import is_loopback

    if (certificate is None) != (key is None):
        raise SettingsError("--tls-cert and --tls-key go together: name both, or neither.")
    if certificate is None and not behind_proxy and not is_loopback(host):
        raise SettingsError(
            f"On {host}, passwords and images would be sent unencrypted. Give --tls-cert and --tls-key, or "
            "--behind-proxy where a reverse proxy terminates TLS."
        )
    return None if certificate is None or key is None else (certificate, key)


def _announcer(config: "Settings") -> "Announcer | None":
    """Make the announcer for uploads; None with the in-process queue of another process: its sweep announces them."""
    from pneumowatch.queue import Announcer, make_celery_app

    return None if config.embedded_queue else Announcer(make_celery_app(config), config)
