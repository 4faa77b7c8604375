"""The desk: where readers see flagged cases first, judge them, and look at what the whole does."""
