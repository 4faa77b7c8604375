"""Fault tests: kill components, broker and database while images arrive, then compare the images with the results.

`rig` holds the real processes, `stage` the flow of images and the clock, `account` the counts. `deaths`, `outages`,
`storage` and `company` define the faults, `faults` lists them, and `page` writes docs/evidence/reliability.md.
"""
