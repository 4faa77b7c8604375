"""Commands that keep a backup, and put it back: `backup`, `restore`."""

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
    key: Annotated[bool, typer.Option("--key/--no-key", help="With the patient key, or without.")] = True,
    data: Data = None,
    json: Json = False,
) -> None:
    """Write database, patient key, models, kept films and uploads into a new folder, while everything runs.

    It is complete or not there, nothing is overwritten, and a manifest holds the SHA-256 of every file. It holds
    patients' films and the patient key: keep it as you keep those. The films of your own inboxes are not in it.
    PostgreSQL's pg_dump must be installed where that is the database.
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
        "The patient key is among them: who has it can test which patient a key stands for."
        if manifest.has_key
        else "The patient key is not among them: without it, no patient's next film is known for his."
    )


def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="The folder that `backup` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="What is there may make way.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Put a backup back, all of it verified before anything is touched, and bring its tables up to this version.

    Nothing may run, and nothing may be there. With [bold]--replace[/bold] files make way, into folders named
    replaced-..., and PostgreSQL's tables are lost. Then [bold]pneumowatch reconcile[/bold] names what came since, and a
    running watcher takes it up.
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
    console.print(f"The backup of {manifest.made_at} is back.")
    for folder in moved:
        console.print(f"What was there before is in {folder}; remove it when all is well.", markup=False)
    if not manifest.has_key:
        console.print(f"It holds no patient key: put your copy at {config.patient_key_path} before anything runs.")
    return console.print(
        "Next: `pneumowatch reconcile`, then start what ran before. Whoever was erased since is back: erase them again."
    )


def write_backup(database: "Database", config: "Settings", out: Path, key: bool) -> "Manifest":
    from db.maintenance import backup as backups

    with _progress_bars() as on_progress:
        return backups.create_backup(database, config, out, key, on_progress)


@contextmanager
def _progress_bars() -> Iterator[Callable[[str], _Progress]]:
    """A bar for each step."""
    from cli.output import progress_bar

    with ExitStack() as bar:

        def begin(step: str) -> _Progress:
            bar.close()
            return bar.enter_context(progress_bar(step))

        yield begin
