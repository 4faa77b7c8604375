"""Why a figure is short of its bar: figure name -> one sentence, which stands beside it in docs/evidence/benchmarks.md."""

BESIDE = (
    "met (0.92) beside the notebook's network and its 6.3 ms a film; beside 3.4 ms, what the pipeline adds weighs more "
    "(more films are read in a second). Part of it is keeping flagged films, three in four of these: see `no film kept`"
)
COLUMNS = "met (0.91) before the worklist's columns and indexes: 0.31 and 0.44 ms of CPU beyond the ceiling then"
BASELINE = "16.2 and 15.7 four hours before, when one task per film came to 30.5 films/s"

REASONS: dict[str, str] = {
    "shipped, embedded: share of the ceiling": BESIDE,
    "shipped, deployed: share of the ceiling": BESIDE,
    "small, embedded: times one task per film": BASELINE,
    "small, deployed: times one task per film": BASELINE,
    "small, embedded: share of the ceiling": COLUMNS,
    "small, deployed: share of the ceiling": COLUMNS,
}
