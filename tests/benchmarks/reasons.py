"""Why a figure is short of its bar: figure name -> one sentence, which stands beside it in docs/benchmarks.md."""

REASONS: dict[str, str] = {}
