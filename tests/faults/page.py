"""Write the measured table into docs/evidence/reliability.md; the text around it is written by hand and stays."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from faults.fault_result import GRACE_SECONDS, FaultResult
from faults.faults import FAULTS, Fault

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "evidence" / "reliability.md"
KEPT: Final = ROOT / "build" / "faults"  # the result of each fault, so that one can be measured again by itself
BEGIN: Final = "<!-- written by `make faults` -->"
END: Final = "<!-- end of what `make faults` writes -->"


def keep(fault_result: FaultResult, **measured: str) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    record = {"account": fault_result.as_dict(), **measured}
    (KEPT / f"{fault_result.name}.json").write_text(json.dumps(record, indent=1), "utf-8")


def kept() -> dict[str, dict[str, Any]]:
    """Return {fault's name: record} of the faults that were measured."""
    files = {fault.name: KEPT / f"{fault.name}.json" for fault in FAULTS}
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()}


def write(machine: dict[str, str]) -> Path:
    """Replace the table between the marks of the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(_lines(machine, kept()))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", "utf-8")
    return PAGE


HEADINGS: Final = (
    "fault",
    "dropped",
    "rows by state",
    "predictions",
    "lost",
    "doubled",
    "recovered in",
    "CPU while waiting",
)


def cells(fault: Fault, fault_result: FaultResult) -> tuple[str, ...]:
    """Return the cells of a fault's row in the table."""
    title = f"{fault.title} ({fault_result.home})"
    states = ", ".join(f"{many} {state}" for state, many in sorted(fault_result.states.items()))
    busy = ", ".join(f"{part} {share:.1%}" for part, share in sorted(fault_result.cpu.items())) or "-"
    counts = (fault_result.dropped, states, fault_result.predictions, fault_result.lost, fault_result.doubled)
    return (
        f"{title}: {fault_result.note}" if fault_result.note else title,
        *map(str, counts),
        f"{fault_result.recovery:.1f} s",
        busy,
    )


def _lines(machine: dict[str, str], records: dict[str, dict[str, Any]]) -> Iterator[str]:
    accounts = {name: FaultResult(**record["account"]) for name, record in records.items()}
    leases = {fault_result.lease for fault_result in accounts.values()}
    said = ", ".join(f"{lease:g}" for lease in sorted(leases))
    yield f"Leases of {said} s: recovery must end within the lease and {GRACE_SECONDS:g} s."
    yield ""
    yield f"| {' | '.join(HEADINGS)} |"
    yield "|---|---:|---|---:|---:|---:|---:|---|"
    for fault in FAULTS:
        if fault.name in accounts:
            yield f"| {' | '.join(cells(fault, accounts[fault.name]))} |"
    wrong = {
        fault.title: accounts[fault.name].complaints
        for fault in FAULTS
        if fault.name in accounts and accounts[fault.name].complaints
    }
    if wrong:
        yield ""
    yield from (f"- Failed: {title}: {'; '.join(what)}." for title, what in wrong.items())
    yield from ("", "| measured on | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in machine.items())
    dates = sorted({record["date"] for record in records.values()})
    loads = sorted({int(record["load"]) for record in records.values()})
    yield f"| load average | {loads[0]} to {loads[-1]} |"
    yield f"| when | {dates[0]} to {dates[-1]} |"
