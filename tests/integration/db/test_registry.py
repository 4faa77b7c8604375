"""Models that made predictions here: known once, never with other weights, the first one champion."""

import pytest
from books import at_once

from db import registry, scans
from db.session import Database
from pneumowatch.errors import ModelError


def register(database: Database, version: str, sha256: str = "1" * 64) -> None:
    database.write(lambda c: registry.register(c, version, sha256, {"threshold": 0.5}))


def test_the_first_model_is_the_champion(database: Database) -> None:
    assert database.read(scans.champion) is None
    register(database, "one")
    register(database, "two", "2" * 64)
    assert database.read(scans.champion) == "one"


def test_registered_twice_is_known_once(database: Database) -> None:
    register(database, "one")
    register(database, "one")
    assert database.read(scans.champion) == "one"


def test_other_weights_under_a_known_name_are_refused(database: Database) -> None:
    register(database, "one")
    with pytest.raises(ModelError, match="one"):
        register(database, "one", "2" * 64)


def test_many_workers_register_the_same_model_at_once(database: Database) -> None:
    at_once(*[lambda: register(database, "one")] * 5)
    assert database.read(scans.champion) == "one"


def test_two_workers_bring_different_first_models_at_once(database: Database) -> None:
    at_once(*(lambda n=n: register(database, f"model-{n}", f"{n}" * 64) for n in range(4)))
    assert database.read(scans.champion) in {f"model-{n}" for n in range(4)}
