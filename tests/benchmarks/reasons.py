"""Reasons why figures miss their bars: figure name -> one sentence for docs/evidence/benchmarks.md."""

BESIDE = (
    "met (0.92) with the notebook's network, which takes 6.3 ms per image; with 3.4 ms, the pipeline's own time is a "
    "larger share. Some of it is storing flagged images, three in four of these: see `no image stored`"
)
COLUMNS = "met (0.91) before the worklist got its columns and indexes: 0.31 and 0.44 ms of CPU beyond the ceiling then"
BASELINE = "16.2 and 15.7 four hours earlier, when one task per image reached 30.5 images/s"

REASONS: dict[str, str] = {
    "shipped, embedded: share of the ceiling": BESIDE,
    "shipped, deployed: share of the ceiling": BESIDE,
    "small, embedded: times one task per image": BASELINE,
    "small, deployed: times one task per image": BASELINE,
    "small, embedded: share of the ceiling": COLUMNS,
    "small, deployed: share of the ceiling": COLUMNS,
}
