"""Any sequence of transitions, also senseless ones, leaves each scan in one legal state, explained by its events."""

from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run
from sqlalchemy import func, select, text
from support.ledger_driver import LedgerDriver, classified, deferred, file_version, rejected

from db import schema
from db.ledger.outcomes import Claim, Outcome
from db.ledger.statements import in_state
from db.models import Base, Content, Prediction, Scan, ScanEvent
from db.session import Database
from db.states import REQUEUEABLE, WAITING, Reason, State
from pneumowatch.header import Header

LEGAL: Final = {
    (None, State.QUEUED),
    (State.QUEUED, State.RUNNING),
    *((State.RUNNING, after) for after in State if after is not State.RUNNING),
    *((before, State.QUEUED) for before in REQUEUEABLE),
}
SHOWN: Final = (State.CLASSIFIED, State.DUPLICATE)
sizes = st.integers(1, 2)
files = st.builds(file_version, name=st.sampled_from("ab"), size=sizes)
kinds = st.lists(
    st.sampled_from(["classified", "classified", "rejected", "vanished", "later", "changed"]), min_size=2, max_size=2
)
hashes = st.sampled_from([f"{number}" * 64 for number in "123"])
headers = st.sampled_from([None, *(Header(sop_uid=f"1.{number}", pixels_sha256="0" * 64) for number in (1, 2))])


class LedgerMachine(RuleBasedStateMachine):
    database: ClassVar[Database]
    claims = Bundle("claims")

    @initialize()
    def empty(self) -> None:
        self.ledger = LedgerDriver(self.database)
        for table in reversed(Base.metadata.sorted_tables):
            # `scans` points at itself: one statement deletes it all, whatever the order of its rows
            self.database.write(lambda c, table=table: c.execute(text(f"DELETE FROM {table.name}")))
        self.ledger.register_model()
        self.permits = 0  # in messages that were sent and not spent yet

    @rule(burst=st.lists(files, min_size=1, max_size=3))
    def register(self, burst: list[Any]) -> None:
        result = self.ledger.register(*burst)
        assert len(set(result.to_announce)) == len(result.to_announce)
        self.permits += len(result.to_announce)
        for scan_id in result.to_announce:
            row = self.ledger.row(scan_id)
            assert (row["state"], row["announced_at"] is None) == (State.QUEUED, False)
        last = {file.path: file for file in burst}
        assert set(self.ledger.unregistered(*last.values())) <= set(result.busy)
        for row in map(self.ledger.row, self.ledger.states()):
            file = last.get(row["path_bytes"])
            if file and row["superseded_by"] is None and row["state"] not in WAITING:
                assert row["size"] == file.size  # what the views show is what is there
                assert row["reason"] != Reason.VANISHED

    @rule(target=claims, count=st.integers(1, 3))
    def claim(self, count: int) -> Any:
        claim = self._claim(count)
        if claim is None:
            return multiple()
        assert len(claim.scans) == 1 or not any(scan.lost_leases for scan in claim.scans)
        return claim

    @rule(claim=claims, exclusive=st.booleans())
    def renew(self, claim: Claim, exclusive: bool) -> None:
        self.ledger.renew(claim, exclusive)

    @rule(claim=claims, kinds=kinds, sha256=hashes, header=headers, size=sizes)
    def finish(self, claim: Claim, kinds: list[str], sha256: str, header: Header | None, size: int) -> None:
        """Finish a claim, also one that was lost, or finished before."""
        outcomes: list[Outcome] = []
        for scan, kind in zip(claim.scans, kinds, strict=False):
            made = {
                "classified": replace(classified(scan.id, sha256), header=header),
                "rejected": rejected(scan.id),
                "vanished": rejected(scan.id, Reason.VANISHED),
                "later": deferred(scan.id),
                "changed": deferred(scan.id, size=size, mtime_ns=1),
            }
            outcomes.append(made[kind])
        others = self._held_by_others(claim)
        self.ledger.finish(claim, *outcomes)
        assert self._held_by_others(claim) == others

    @rule(kinds=kinds, sha256=hashes, header=headers, size=sizes)
    def read(self, kinds: list[str], sha256: str, header: Header | None, size: int) -> None:
        """Process one claim as an undisturbed worker does."""
        claim = self._claim(100)
        if claim is not None:
            self.finish(claim, kinds, sha256, header, size)

    @rule(claim=claims, max_attempts=st.integers(1, 2))
    def expire(self, claim: Claim, max_attempts: int) -> None:
        others = self._held_by_others(claim)
        self.ledger.expire(claim, max_attempts)
        assert self._held_by_others(claim) == others

    @rule()
    def requeue(self) -> None:
        self.ledger.requeue()

    @rule(lost=st.booleans())
    def sweep(self, lost: bool) -> None:
        announced = self.ledger.mark_announced(Scan.announced_at.is_not(None) if lost else Scan.announced_at.is_(None))
        self.permits += len(announced)
        if lost and announced:
            self.ledger.mark_unannounced(announced[0])
            self.permits -= 1

    def _claim(self, count: int) -> Claim | None:
        """Claim as a worker that has so many permits, or fewer where fewer are available."""
        claim = self.ledger.claim(min(count, self.permits), swept=False) if self.permits else None
        self.permits -= len(claim.scans) if claim else 0
        return claim

    def _held_by_others(self, claim: Claim) -> list[Any]:
        rows = [self.ledger.row(scan.id) for scan in claim.scans]
        return [row for row in rows if row["claim_token"] not in (None, claim.token)]

    @invariant()
    def announced_scans_have_permits(self) -> None:
        """Without a permit it would wait for a lease, with workers idle."""
        announced = select(func.count()).where(in_state(State.QUEUED), Scan.announced_at.is_not(None))
        assert self.database.read(lambda c: c.scalar(announced)) <= self.permits

    @invariant()
    def the_ledger_is_closed(self) -> None:
        scans, events, predictions, contents = self.database.read(
            lambda c: [
                c.execute(select(model.__table__).order_by(*model.__table__.primary_key)).mappings().all()
                for model in (Scan, ScanEvent, Prediction, Content)
            ]
        )
        chains: dict[int, list[tuple[str | None, str]]] = {}
        for event in events:
            chains.setdefault(event["scan_id"], []).append((event["from_state"], event["to_state"]))
        assert set(chains) == {scan["id"] for scan in scans}
        predicted = {row["scan_id"] for row in predictions if row["current"]}
        owners = {row["sha256"]: row["scan_id"] for row in contents}
        by_id = {scan["id"]: scan for scan in scans}
        assert all(by_id[owner]["state"] == State.CLASSIFIED for owner in owners.values())
        for scan in scans:
            self._chain(chains[scan["id"]], scan["state"])
            self._row(scan, by_id)
            assert (scan["id"] in predicted) == (scan["state"] == State.CLASSIFIED)
            if scan["state"] in SHOWN:
                assert owners[scan["sha256"]] == (scan["duplicate_of"] or scan["id"])
        self._paths(scans)
        self._cases(scans)

    def _chain(self, moves: list[tuple[str | None, str]], state: str) -> None:
        assert all(move in LEGAL for move in moves)
        assert moves[0][0] is None
        assert all(before[1] == after[0] for before, after in pairwise(moves))
        assert moves[-1][1] == state

    def _row(self, scan: Any, by_id: dict[int, Any]) -> None:
        state = State(scan["state"])
        running = state is State.RUNNING
        assert (scan["claim_token"] is not None) == running
        assert (scan["leased_until"] is not None) == running
        assert (scan["finished_at"] is None) == (state in WAITING)
        assert (scan["probability"] is not None) == (state is State.CLASSIFIED)
        assert (scan["reason"] is not None) == (state is State.REJECTED)
        assert (scan["duplicate_of"] is not None) == (state is State.DUPLICATE)
        if state is State.DUPLICATE:
            assert by_id[scan["duplicate_of"]]["state"] == State.CLASSIFIED

    def _paths(self, scans: Any) -> None:
        """Of the scans of a path one is current, and at most one waits: no image is hidden behind another."""
        paths: dict[bytes, list[Any]] = {}
        for scan in scans:
            paths.setdefault(scan["path_bytes"], []).append(scan)
        for here in paths.values():
            assert sum(scan["superseded_by"] is None for scan in here) == 1
            assert sum(scan["state"] in WAITING for scan in here) <= 1

    def _cases(self, scans: Any) -> None:
        """Flagged cases are those of current scans, each once."""
        listed = self.database.read(lambda c: c.execute(text("SELECT scan_id, path FROM flagged_cases")).all())
        current = [scan for scan in scans if scan["superseded_by"] is None]
        shown = {scan["duplicate_of"] or scan["id"] for scan in current if scan["state"] in SHOWN}
        assert sorted(case.scan_id for case in listed) == sorted(shown)
        standing = {(scan["duplicate_of"] or scan["id"], scan["path"]) for scan in current}
        assert {(case.scan_id, case.path) for case in listed} <= standing


@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 30), ("postgresql", 8)])
def test_any_sequence_of_moves(kind: str, examples: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fixture = "sqlite_url" if kind == "sqlite" else "postgres_database"
    with closing(Database(request.getfixturevalue(fixture))) as database:
        if kind == "postgresql":
            schema.upgrade(database)
        machine = type("Machine", (LedgerMachine,), {"database": database})
        run(
            machine,
            settings=settings(
                max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
