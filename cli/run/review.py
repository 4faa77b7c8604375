"""The desk by itself, for a deployment."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pneumowatch.errors import SettingsError

if TYPE_CHECKING:
    from pneumowatch.queue import Announcer
    from pneumowatch.settings import Settings

LIVENESS_POLL_SECONDS: Final = 1.0  # how often it is looked whether the desk's thread still lives


def review(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port (default: PNEUMOWATCH_REVIEW_PORT); 0: any free one.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate and its chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy before it does TLS; browsers never come here directly.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="The data folder (default: PNEUMOWATCH_DATA_DIR, or ./data).")
    ] = None,
) -> None:
    """Serve the desk: worklist, films, verdicts, upload, overview and models, for readers with a browser.

    [bold]pneumowatch users add[/bold] makes accounts. On any other address than this machine's own it needs TLS: a
    certificate and its key, or a proxy that does it. Of such a proxy's sign-on, PNEUMOWATCH_TRUSTED_PROXIES says whom
    to believe.
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
            open_database(data)  # which says where there is none, and how one is made
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
    """Raises SettingsError where films would travel in the clear."""
    from review.address import is_loopback

    if (certificate is None) != (key is None):
        raise SettingsError("--tls-cert and --tls-key go together: name both, or neither.")
    if certificate is None and not behind_proxy and not is_loopback(host):
        raise SettingsError(
            f"On {host}, passwords and films would travel in the clear. Give --tls-cert and --tls-key, or say "
            "--behind-proxy where a proxy before the desk does TLS."
        )
    return None if certificate is None or key is None else (certificate, key)


def _announcer(config: "Settings") -> "Announcer | None":
    """None beside an embedded queue, which lives in another process: the sweep there rings for what is uploaded."""
    from pneumowatch.queue import Announcer, make_celery_app

    return None if config.embedded_queue else Announcer(make_celery_app(config), config)
