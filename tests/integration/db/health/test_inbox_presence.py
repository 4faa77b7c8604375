"""Whether the folder at an inbox's path is the inbox: with real folders, and with mounts as the kernel reports them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support.ledger_driver import LedgerDriver, deferred, file_version, rejected

from cli import query
from cli.maintenance import health_checks
from db.health.inbox_presence import InboxPresence, InboxState, RescanReport, inbox_states
from db.ledger import transitions
from db.models import Inbox
from db.session import Database
from db.states import Reason
from pneumowatch import mount_identity
from pneumowatch.errors import ShareUnavailable
from pneumowatch.mount_identity import MountedFolder
from pneumowatch.settings import Settings

PATIENCE = 3600.0
SHARE = MountedFolder("nfs4", "/mnt/images", "nfs4 server:/images / 7")
BENEATH = MountedFolder("ext4", "/", "ext4 /dev/sda1 /mnt/images 99")  # the mount point of a share that has dropped
OTHER = MountedFolder("nfs4", "/mnt/images", "nfs4 newserver:/images / 7")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def presence(database: Database) -> InboxPresence:
    return InboxPresence(database, PATIENCE, "pc-1")


def standing(database: Database, machine: str = "pc-1") -> dict[str, object]:
    (found,) = [row for row in database.read(inbox_states) if row["machine"] == machine]
    return found


def add_scan(ledger: LedgerDriver, root: Path, name: str = "a.png") -> int:
    """Write an image into the folder and add its waiting scan; return its id."""
    (root / name).write_bytes(b"image")
    (scan_id,) = ledger.add(file_version(name, 5, (root / name).stat().st_mtime_ns))
    return scan_id


def age(database: Database, seconds: float) -> None:
    """Date the inbox's state back by so many seconds."""
    since = standing(database)["since"] - timedelta(seconds=seconds)  # type: ignore[operator]
    database.write(lambda c: c.execute(update(Inbox).values(since=since)))


def test_the_first_folder_that_is_seen_is_the_inbox(presence: InboxPresence, database: Database, root: Path) -> None:
    assert presence.check("inbox", root)
    found = standing(database)
    assert (found["state"], found["identity"], found["root"]) == (
        InboxState.AVAILABLE,
        mount_identity.identify_folder(root).identity,
        str(root),
    )
    assert presence.check("inbox", root)
    assert standing(database) == found, "nothing is written while nothing changes"


def test_a_database_that_is_away_is_not_taken_for_a_share_that_does_not_answer(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share is probed by itself: time spent waiting for the database does not count as waiting for the share."""
    asks: list[str] = []
    in_question = False

    @contextmanager
    def io_context() -> Iterator[None]:
        nonlocal in_question
        asks.append("share")
        in_question = True
        try:
            yield
        finally:
            in_question = False

    def noting(method: Callable[..., Any]) -> Callable[..., Any]:
        def ask(work: Any) -> Any:
            assert not in_question
            asks.append("database")
            return method(work)

        return ask

    for method in ("read", "write"):
        monkeypatch.setattr(database, method, noting(getattr(database, method)))
    assert presence.check("inbox", root, io_context)
    add_scan(ledger, root)
    root.rename(root.with_name("moved"))
    root.mkdir()  # doubted, so images are looked for in it
    assert not presence.check("inbox", root, io_context)
    assert asks.count("share") == 3
    assert "database" in asks


def test_a_folder_that_is_missing_is_away_and_taken_up_again(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    assert presence.check("inbox", root)
    scan_id = add_scan(ledger, root)
    ledger.finish(ledger.claimed(), deferred(scan_id, 300))
    root.rename(root.with_name("moved"))
    for _ in range(2):
        with pytest.raises(ShareUnavailable):
            presence.check("inbox", root)
    away = standing(database)
    assert (away["state"], away["last_scan_id"]) == (InboxState.UNAVAILABLE, scan_id)
    assert str(root) not in str(away["detail"])
    assert ledger.claim() is None
    root.with_name("moved").rename(root)
    assert presence.check("inbox", root)
    back = standing(database)
    assert (back["state"], back["detail"]) == (InboxState.AVAILABLE, None)
    assert len(ledger.claimed().scans) == 1, "what was put off while it was away is due"


def test_an_empty_folder_in_its_place_is_not_the_inbox_while_an_image_waits(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    assert presence.check("inbox", root)
    add_scan(ledger, root)
    root.rename(root.with_name("moved"))
    root.mkdir()
    assert not presence.check("inbox", root)
    assert not presence.verify_mount("inbox", root, mount_identity.identify_folder(root)), "a worker is told the same"
    assert standing(database)["detail"] == "another folder is in its place"
    root.rmdir()
    root.with_name("moved").rename(root)
    assert presence.check("inbox", root)


def test_a_folder_made_anew_is_the_inbox_once_no_image_waits(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    assert presence.check("inbox", root)
    scan_id = add_scan(ledger, root)
    root.rename(root.with_name("moved"))
    root.mkdir()
    assert not presence.check("inbox", root)
    ledger.finish(ledger.claimed(), rejected(scan_id))
    assert presence.check("inbox", root)
    assert standing(database)["identity"] == mount_identity.identify_folder(root).identity


def test_a_folder_made_anew_is_the_inbox_in_time(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    """Its images are really gone, and must be reported so."""
    assert presence.check("inbox", root)
    add_scan(ledger, root)
    root.rename(root.with_name("moved"))
    root.mkdir()
    assert not presence.check("inbox", root)
    age(database, PATIENCE - 60)
    assert not presence.check("inbox", root)
    age(database, 120)
    assert presence.check("inbox", root)


def test_an_image_tells_the_inbox_wherever_it_lies_now(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    assert presence.verify_mount("inbox", root, SHARE)
    add_scan(ledger, root)
    add_scan(ledger, root, "b.png")
    (root / "b.png").unlink()
    assert presence.verify_mount("inbox", root, OTHER)
    assert standing(database)["identity"] == OTHER.identity


def test_an_image_that_came_after_the_inbox_went_away_tells_nothing(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    """Somebody wrote into the mount point."""
    assert presence.verify_mount("inbox", root, SHARE)
    add_scan(ledger, root)
    (root / "a.png").unlink()
    assert not presence.verify_mount("inbox", root, BENEATH)
    add_scan(ledger, root, "stray.png")
    assert not presence.verify_mount("inbox", root, BENEATH)


def test_a_missing_mount_is_never_the_inbox_however_long_it_takes(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    assert presence.verify_mount("inbox", root, SHARE)
    assert not presence.verify_mount("inbox", root, BENEATH), "whether or not an image waits"
    add_scan(ledger, root)
    (root / "a.png").unlink()
    age(database, 100 * PATIENCE)
    assert not presence.verify_mount("inbox", root, BENEATH)
    assert standing(database)["detail"] == "nothing is mounted where it was (nfs4)"
    assert presence.verify_mount("inbox", root, SHARE)


def test_a_folder_that_somebody_named_anew_is_no_missing_mount(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path, tmp_path: Path
) -> None:
    assert presence.verify_mount("inbox", root, SHARE)
    assert presence.verify_mount("inbox", tmp_path, BENEATH)
    assert standing(database)["root"] == str(tmp_path)


def test_machines_may_have_it_at_different_places(presence: InboxPresence, database: Database, root: Path) -> None:
    assert presence.verify_mount("inbox", root, SHARE)
    elsewhere = MountedFolder("nfs4", "/images", "nfs4 10.0.0.7:/images / 7")
    assert InboxPresence(database, PATIENCE, "cellar").verify_mount("inbox", Path("/images"), elsewhere)
    assert presence.verify_mount("inbox", root, SHARE)
    assert standing(database, "cellar")["identity"] == elsewhere.identity


def test_a_machine_that_starts_without_the_mount_that_others_have_doubts_its_folder(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    assert presence.verify_mount("inbox", root, SHARE)
    newcomer = InboxPresence(database, PATIENCE, "cellar")
    assert not newcomer.verify_mount("inbox", root, BENEATH)
    add_scan(ledger, root)
    assert not newcomer.verify_mount("inbox", root, BENEATH), "an image that came later tells nothing"
    assert newcomer.verify_mount("inbox", root, SHARE)


def test_the_machine_that_holds_the_disk_is_believed_its_images(
    presence: InboxPresence, database: Database, ledger: LedgerDriver, root: Path
) -> None:
    """The server itself runs a worker: no share there."""
    assert presence.verify_mount("inbox", root, SHARE)
    add_scan(ledger, root)
    assert InboxPresence(database, PATIENCE, "server").verify_mount("inbox", root, BENEATH)


def test_a_rescan_is_noted(presence: InboxPresence, database: Database, root: Path) -> None:
    assert presence.check("inbox", root)
    presence.record_rescan("inbox", RescanReport("poll", 1.5, 100_000))
    found = standing(database)
    assert (found["watch_mode"], found["rescan_seconds"], found["files"]) == ("poll", 1.5, 100_000)
    assert abs(found["rescanned_at"] - transitions.utc_now()) < timedelta(minutes=1)  # type: ignore[operator]


def test_a_share_that_does_not_answer_is_away_until_it_does(
    presence: InboxPresence, database: Database, root: Path
) -> None:
    assert presence.check("inbox", root)
    presence.report_unavailable("inbox", root, "it does not answer")
    assert standing(database)["state"] == InboxState.UNAVAILABLE
    assert presence.check("inbox", root)
    assert standing(database)["state"] == InboxState.AVAILABLE


def test_a_vanished_image_that_comes_back_waits_again(ledger: LedgerDriver) -> None:
    scan_id = ledger.reject(file_version(), Reason.VANISHED)
    assert ledger.unregistered(file_version()) == [file_version()]
    assert ledger.register(file_version()).to_announce == [scan_id]


def test_what_status_and_doctor_say_of_a_share_that_is_away(
    database: Database,
    presence: InboxPresence,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(health_checks, "Database", lambda _: database)
    monkeypatch.setattr(query, "open_database", lambda _: database)
    given = Settings(database_url="sqlite://", inboxes={"inbox": root})
    assert presence.check("inbox", root)
    assert list(health_checks._shares(given)) == []
    presence.report_unavailable("inbox", root, "it does not answer")
    (found,) = health_checks._shares(given)
    assert (found.status, found.check) == ("error", "inbox inbox")
    assert found.message.startswith("away on pc-1 since ")
    query.status()
    assert "inbox inbox is away on pc-1: it does not answer" in capsys.readouterr().out
