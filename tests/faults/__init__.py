"""Faults: parts, broker and database are killed under a flow of films, and then films in are counted against results
out.

`rig` holds the real processes, `stage` the flow of films and the clock, `account` counts; `deaths`, `outages`,
`storage` and `company` are the faults, listed in `faults`. `page` writes docs/evidence/reliability.md.
"""
