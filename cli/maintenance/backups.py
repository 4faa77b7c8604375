"""`backup` and `restore`: write a backup while everything runs, and restore it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Data, Json

if TYPE_CHECKING:
    from db.maintenance.backup import Manifest
    from db.session import Database
    from pneumowatch.settings import Settings

_Progress = Callable[[int, int], None]


def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, on another disk.")],
    key: Annotated[bool, typer.Option("--key/--no-key", help="Include the patient key, or not.")] = True,
    data: Data = None,
    json: Json = False,
) -> None:
    """Back up database, patient key, models, stored images and uploads into a new folder, while everything runs.

    The backup is complete or absent, nothing is overwritten, and a manifest holds the SHA-256 of every file. It holds
    patients' images and the patient key: protect it like them. The files in your inboxes are not included. With
    PostgreSQL, its program pg_dump must be installed.
    """
    from cli.connection import require_ledger
    from cli.output import console, print_json
    from db.session import Database
    from pneumowatch import settings

    config = settings.load_settings(data_dir=data)
    require_ledger(config)
    manifest = write_backup(Database(config.database), config, out, key)
    report = {
        "folder": str(out),
        "schema": manifest.schema,
        "version": manifest.version,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "patient_key": manifest.has_key,
    }
    if json:
        return print_json(report)
    console.print(f"{out} holds {len(manifest.files)} files, {manifest.size:,} bytes.", markup=False, highlight=False)
    return console.print(
        "It includes the patient key: whoever has it can test which patient a hashed ID belongs to."
        if manifest.has_key
        else "It does not include the patient key: without the key, new scans cannot be linked to known patients."
    )


def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="The folder that `backup` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing installation's data.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Restore a backup. It is verified completely before anything is changed, then upgraded to this version.

    No component may run, and there must be no data yet. With [bold]--replace[/bold] existing files are moved into
    folders named replaced-..., and PostgreSQL's tables are dropped. Afterwards [bold]pneumowatch reconcile[/bold] lists
    the files that arrived since the backup; a running watcher registers them.
    """
    from cli.output import console, print_json
    from cli.run.embedded import lock_data_dir
    from db.maintenance import backup as backups
    from db.maintenance import restore
    from pneumowatch import settings

    config = settings.load_settings(data_dir=data)
    manifest = backups.read_manifest(source)
    with lock_data_dir(config.data_dir), _progress_bars() as on_progress:
        backups.verify_backup(source, manifest, on_progress("verifying"))
        moved = restore.restore_backup(config, source, manifest, replace, on_progress)
    report = {
        "made_at": manifest.made_at,
        "version": manifest.version,
        "schema": manifest.schema,
        "patient_key": manifest.has_key,
        "moved_aside": [str(folder) for folder in moved],
    }
    if json:
        return print_json(report)
    console.print(f"The backup of {manifest.made_at} is restored.")
    for folder in moved:
        console.print(f"The previous data are in {folder}; remove them when all is well.", markup=False)
    if not manifest.has_key:
        console.print(f"It holds no patient key: put your copy at {config.patient_key_path} before you start anything.")
    return console.print(
        "Next: `pneumowatch reconcile`, then start the components. Patients erased since the backup are restored too: "
        "erase them again."
    )


def write_backup(database: "Database", config: "Settings", out: Path, key: bool) -> "Manifest":
    """Write a backup with progress bars, and return its manifest."""
    from db.maintenance import backup as backups

    with _progress_bars() as on_progress:
        return backups.create_backup(database, config, out, key, on_progress)


@contextmanager
def _progress_bars() -> Iterator[Callable[[str], _Progress]]:
    """Show one progress bar per step. Yields a function that starts a step's bar."""
    from cli.output import progress_bar

    with ExitStack() as bar:

        def begin(step: str) -> _Progress:
            bar.close()
            return bar.enter_context(progress_bar(step))

        yield begin
