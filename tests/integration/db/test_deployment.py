"""One patient key per deployment: its fingerprint is in the database, and a component with another key stops."""

from pathlib import Path

import pytest
from support.ledger_driver import run_concurrently

from db.deployment import check_patient_key, load_patient_key, stored_fingerprint
from db.session import Database
from pneumowatch import patient_hashing
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings


@pytest.fixture
def machines(tmp_path: Path) -> list[Settings]:
    """Two machines of one deployment, each with a data folder of its own, which is not there yet."""
    return [Settings(data_dir=tmp_path / name / "data") for name in ("one", "two")]


def test_the_first_start_makes_it_and_the_database_knows_it(database: Database, machines: list[Settings]) -> None:
    assert database.read(stored_fingerprint) is None
    key = load_patient_key(database, machines[0])
    assert key == patient_hashing.read_key(machines[0].patient_key_path)
    assert database.read(stored_fingerprint) == patient_hashing.key_fingerprint(key)
    assert load_patient_key(database, machines[0]) == key


def test_a_second_machine_is_told_to_get_it(database: Database, machines: list[Settings]) -> None:
    """It makes no key of its own, which would only conflict."""
    load_patient_key(database, machines[0])
    with pytest.raises(SettingsError, match=r"missing.*Copy it from another machine"):
        load_patient_key(database, machines[1])
    assert not machines[1].patient_key_path.exists()


def test_another_key_is_refused(database: Database, machines: list[Settings]) -> None:
    key = load_patient_key(database, machines[0])
    machines[1].data_dir.mkdir(parents=True)
    wrong = patient_hashing.read_or_create_key(machines[1].patient_key_path)
    for check in (load_patient_key, check_patient_key):
        with pytest.raises(SettingsError, match="is not the patient key of this database") as caught:
            check(database, machines[1])
        assert wrong.hex() not in str(caught.value)
    assert database.read(stored_fingerprint) == patient_hashing.key_fingerprint(key)
    machines[1].patient_key_path.write_text(key.hex())
    assert load_patient_key(database, machines[1]) == key


def test_components_that_do_not_need_it_make_none(database: Database, machines: list[Settings]) -> None:
    check_patient_key(database, machines[0])
    assert not machines[0].data_dir.exists()
    assert database.read(stored_fingerprint) is None


def test_two_machines_that_start_first_at_once_do_not_both_go_on(database: Database, machines: list[Settings]) -> None:
    def start(settings: Settings) -> bytes | None:
        try:
            return load_patient_key(database, settings)
        except SettingsError:
            return None

    keys = run_concurrently(*(lambda settings=settings: start(settings) for settings in machines))
    (key,) = [key for key in keys if key is not None]
    assert database.read(stored_fingerprint) == patient_hashing.key_fingerprint(key)


def test_a_named_file_whose_folder_is_not_there_is_no_place_for_it(database: Database, tmp_path: Path) -> None:
    """As where a volume of secrets is not mounted."""
    settings = Settings(data_dir=tmp_path, patient_key_file=tmp_path / "secrets" / "key")
    with pytest.raises(SettingsError, match="cannot be made"):
        load_patient_key(database, settings)
    assert database.read(stored_fingerprint) is None
