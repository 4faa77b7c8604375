"""The model registry: each version registered once, the first as champion; promotion and rollback."""

from datetime import UTC, datetime
from typing import Any

import pytest
from support.ledger_driver import model_folder, run_concurrently

from db.registry import model_registry
from db.session import Database
from pneumowatch.errors import ModelError


def register(database: Database, version: str, sha256: str = "1" * 64, archive: bytes = b"packed") -> None:
    database.write(lambda c: model_registry.register_model(c, model_folder(version, sha256), archive, "worker"))


def promote(database: Database, version: str, reason: str = "better") -> str | None:
    return database.write(lambda c: model_registry.promote_to_champion(c, version, "ada", reason))


def rollback(database: Database, expected: str | None = None) -> str:
    return database.write(lambda c: model_registry.roll_back_champion(c, "ada", "worse", expected))


def champion(database: Database) -> str | None:
    return database.read(model_registry.champion_version)


def history(database: Database) -> list[tuple[Any, ...]]:
    """Oldest first."""
    rows = database.read(model_registry.promotions)
    return [(row["previous"], row["version"], row["by"], row["reason"]) for row in reversed(rows)]


def test_the_first_model_is_the_champion(database: Database) -> None:
    assert champion(database) is None
    register(database, "one")
    register(database, "two", "2" * 64)
    assert champion(database) == "one"
    assert history(database) == [(None, "one", "worker", "it was the first model here")]


def test_registered_twice_is_known_once(database: Database) -> None:
    register(database, "one")
    register(database, "one", archive=b"packed otherwise")
    assert champion(database) == "one"
    assert database.read(lambda c: model_registry.model_archive(c, "one")) == b"packed"
    assert len(history(database)) == 1


def test_other_weights_under_a_known_name_are_refused(database: Database) -> None:
    register(database, "one")
    with pytest.raises(ModelError, match="one"):
        register(database, "one", "2" * 64)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "champion", "a b", "x" * 129, "naïve"])
def test_what_can_be_no_folder_is_no_name(database: Database, name: str) -> None:
    with pytest.raises(ModelError, match="called"):
        register(database, name)


def test_many_workers_register_the_same_model_at_once(database: Database) -> None:
    run_concurrently(*[lambda: register(database, "one")] * 5)
    assert champion(database) == "one"
    assert len(history(database)) == 1


def test_two_workers_bring_different_first_models_at_once(database: Database) -> None:
    run_concurrently(*(lambda n=n: register(database, f"model-{n}", f"{n}" * 64) for n in range(4)))
    assert champion(database) in {f"model-{n}" for n in range(4)}
    assert len(history(database)) == 1


def test_an_archive_comes_back_to_the_bit(database: Database) -> None:
    archive = bytes(range(256)) * 5000
    register(database, "one", archive=archive)
    assert database.read(lambda c: model_registry.model_archive(c, "one")) == archive
    (listed,) = database.read(model_registry.registered_models)
    assert listed["archive_bytes"] == len(archive)
    with pytest.raises(ModelError, match="no model 'two'"):
        database.read(lambda c: model_registry.model_archive(c, "two"))


def test_a_promotion_says_what_it_replaces(database: Database) -> None:
    register(database, "one")
    register(database, "two", "2" * 64)
    assert promote(database, "two", "fewer errors on Fridays") == "one"
    assert champion(database) == "two"
    assert history(database)[1:] == [("one", "two", "ada", "fewer errors on Fridays")]


def test_promoted_twice_is_promoted_once(database: Database) -> None:
    """As after an outage in its middle, when it is unknown whether it was committed."""
    register(database, "one")
    register(database, "two", "2" * 64)
    promote(database, "two")
    assert promote(database, "two") == "two"
    assert len(history(database)) == 2


def test_what_is_not_there_is_not_promoted(database: Database) -> None:
    register(database, "one")
    with pytest.raises(ModelError, match="no model 'two'"):
        promote(database, "two")
    assert champion(database) == "one"


def test_rollback_leads_back_step_by_step(database: Database) -> None:
    for number, version in enumerate(["a", "b", "c"]):
        register(database, version, f"{number}" * 64)
    promote(database, "b")
    promote(database, "c")
    assert rollback(database) == "b"
    assert rollback(database) == "a"
    assert champion(database) == "a"
    with pytest.raises(ModelError, match="none to roll back to"):
        rollback(database)
    promote(database, "c")
    assert rollback(database) == "a"
    assert history(database)[-1] == ("c", "a", "ada", "worse")


def test_who_served_here_the_newest_first(database: Database) -> None:
    assert database.read(model_registry.champion_history) == []
    for number, version in enumerate(["a", "b", "c", "never"]):
        register(database, version, f"{number}" * 64)
    for version in ("b", "a", "c"):
        promote(database, version)
    assert database.read(model_registry.champion_history) == ["c", "a", "b"]
    rollback(database)
    assert database.read(model_registry.champion_history) == ["a", "b"]
    assert [database.read(lambda c, v=v: model_registry.is_registered(c, v)) for v in ("c", "d")] == [True, False]


def test_rollback_of_a_champion_that_no_longer_serves_does_nothing(database: Database) -> None:
    for number, version in enumerate(["a", "b", "c"]):
        register(database, version, f"{number}" * 64)
    promote(database, "b")
    promote(database, "c")
    assert rollback(database, expected="c") == "b"
    assert rollback(database, expected="c") == "b"
    assert champion(database) == "b"


def test_rollback_where_nothing_ever_served(database: Database) -> None:
    with pytest.raises(ModelError, match="none to roll back to"):
        rollback(database)


def test_two_promote_at_once_and_one_serves(database: Database) -> None:
    for number, version in enumerate(["a", "b", "c"]):
        register(database, version, f"{number}" * 64)
    run_concurrently(lambda: promote(database, "b"), lambda: promote(database, "c"))
    (_, second, third) = history(database)
    assert {second[1], third[1]} == {"b", "c"}
    assert third[:2] == (second[1], champion(database))


def test_the_list_shows_who_served_when(database: Database) -> None:
    began = datetime.now(UTC)
    register(database, "one")
    register(database, "two", "2" * 64)
    register(database, "three", "3" * 64)
    promote(database, "two")
    rows = {row["version"]: row for row in database.read(model_registry.registered_models)}
    assert [version for version, row in rows.items() if row["champion"]] == ["two"]
    assert rows["three"]["promoted_at"] is None
    assert began <= rows["one"]["promoted_at"] <= rows["two"]["promoted_at"] <= datetime.now(UTC)
    assert rows["two"]["card"]["threshold"] == {"value": 0.5}
