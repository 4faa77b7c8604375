"""The desk by itself, for a deployment."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pneumowatch.errors import SettingsError

if TYPE_CHECKING:
    from pneumowatch.queue import Doorbell
    from pneumowatch.settings import Settings

LOOK_SECONDS: Final = 1.0  # how often it is looked whether the desk's thread still lives


def review(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port (default: PNEUMOWATCH_DESK_PORT); 0: any free one.")
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
    from db import deployment, schema
    from db.pulse import beating
    from db.session import Database
    from pneumowatch import inboxes, logs, settings
    from pneumowatch.cli import stopping
    from pneumowatch.cli.query import open_database
    from review.app import make_app
    from review.server import Server

    given = settings.load(data_dir=data)
    logs.configure(given.log_format)
    tls = _require_tls(host, tls_cert, tls_key, behind_proxy)
    stop = stopping.on_request()
    with closing(Database(given.database, stop)) as patient:
        if not given.database_url:
            open_database(data)  # which says where there is none, and how one is made
        schema.require_current(patient)
        deployment.check_patient_key(patient, given)
    with closing(Database(given.database)) as database:
        app = make_app(
            given,
            database,
            inboxes=inboxes.named(given),
            doorbell=_doorbell(given),
            behind_proxy=behind_proxy,
            tls=tls is not None,
        )
        with (
            beating(database) as pulse,
            Server(app, host, given.desk_port if port is None else port, tls=tls) as server,
        ):
            pulse.part("desk").say("serving")
            typer.echo(f"Desk: {server.url}")
            while server.alive and not stop.wait(LOOK_SECONDS):
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


def _doorbell(given: "Settings") -> "Doorbell | None":
    """None beside an embedded queue, which lives in another process: the sweep there rings for what is uploaded."""
    from pneumowatch.queue import Doorbell, make_app

    return None if given.embedded_queue else Doorbell(make_app(given), given)
