"""Fault tests: kill components, broker and database while images arrive, then compare the images with the results.

`rig` runs the real processes, `scenario` the flow of images and the clock, and `fault_result` compares. The faults are
in `killed_processes`, `outages`, `storage` and `watcher_and_scheduler`, and listed in `faults`. `page` writes
docs/evidence/reliability.md.
"""
