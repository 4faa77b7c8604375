"""Run a small deployment on real images, to check the whole by eye.

    python tests/deployed.py ../shared/data/originals

Starts a Redis and a PostgreSQL of its own, a watcher and two workers, drops the images in three ways, waits until each
has its result, and prints what the views say. Ends with 1 where an image is missing, twice there, or without a result.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from drop import drop
from support.programs import RunningCommand, environment, run
from support.services import connect, fresh_database, postgres_server, redis_server

QUESTIONS = {
    "rows, paths": "SELECT count(*), count(DISTINCT path) FROM scan_ledger",
    "states": "SELECT state, count(*) FROM scan_ledger GROUP BY 1 ORDER BY 1",
    "flagged, by folder": "SELECT split_part(path, '-', 1), count(*) FROM flagged_cases GROUP BY 1 ORDER BY 1",
    "read by": "SELECT by, count(*) FROM scan_events WHERE to_state = 'classified' GROUP BY 1 ORDER BY 1",
    "first flagged": "SELECT scan_id, path, round(probability::numeric, 4) FROM flagged_cases LIMIT 5",
}
FINISHED = "SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    images = parser.parse_args().images
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-deployed-")))
        broker = stack.enter_context(redis_server())
        database = stack.enter_context(fresh_database(stack.enter_context(postgres_server()).url))
        inbox = folder / "ward"
        inbox.mkdir()
        env = environment(
            inboxes=f"ward={inbox}", data_dir=folder / "data", database_url=database, broker_url=broker.url
        )
        run("db", "upgrade", cwd=folder, env=env)
        watcher, *workers = (
            stack.enter_context(RunningCommand((command,), folder, folder / f"{number}-{command}.log", env))
            for number, command in enumerate(("watch", "work", "work"))
        )
        for worker in workers:
            worker.wait_until_said("model ready")
        dropped = drop(images, inbox)
        asked = stack.enter_context(connect(database))
        watcher.wait_until(lambda: asked.execute(FINISHED).fetchall()[0][0] >= dropped, timeout=600)
        answers = {name: asked.execute(question).fetchall() for name, question in QUESTIONS.items()}
        codes = [part.terminate() for part in (watcher, *workers)]
    for name, rows in answers.items():
        print(f"{name}:", "; ".join(" ".join(map(str, row)) for row in rows))
    print("exit codes:", *codes)
    return 0 if answers["rows, paths"] == [(dropped, dropped)] and codes == [0, 0, 0] else 1


if __name__ == "__main__":
    sys.exit(main())
