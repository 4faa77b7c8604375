"""Decoding in real child processes: the cost of a bad file, and cleanup after a kill."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import fault_injection
from support.waiting import eventually

from pneumowatch.imaging import reader
from worker import decode
from worker.decode import (
    DecodedFile,
    DecodeFailure,
    DecodeRequest,
    DecodeResult,
    DecoderLimits,
    DecoderPool,
    FileUnavailable,
)

SIDE = 64
SECONDS = 2.0  # bound on one image
BOUNDS = DecoderLimits(max_bytes=2_000_000, max_pixels=4_000_000, seconds=SECONDS, memory=2**30)
TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    made = DecoderPool(2, BOUNDS)
    made.warm()
    yield made
    made.close()


@pytest.fixture
def faulty_decoders(decoders: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> DecoderPool:
    monkeypatch.setattr(decode, "read_and_decode", fault_injection.read_and_decode)
    return decoders


@pytest.fixture
def inbox(tmp_path: Path, phantoms: Path) -> Path:
    return Path(shutil.copytree(phantoms, tmp_path / "inbox"))


def decode_requests(inbox: Path, *names: str) -> list[DecodeRequest]:
    chosen = names or sorted(path.name for path in inbox.iterdir())
    return [DecodeRequest(number, inbox, os.fsencode(name)) for number, name in enumerate(chosen, start=100)]


def reasons(fetched: list[DecodeResult]) -> dict[int, str]:
    return {one.scan_id: one.reason for one in fetched if isinstance(one, DecodeFailure)}


def test_images_come_back_in_order_as_they_are(decoders: DecoderPool, inbox: Path) -> None:
    requests = decode_requests(inbox)
    fetched = decoders.decode(requests, SIDE)
    assert [one.scan_id for one in fetched] == [request.scan_id for request in requests]
    for request, one in zip(requests, fetched, strict=True):
        path = inbox / os.fsdecode(request.path)
        data = path.read_bytes()
        assert isinstance(one, DecodedFile)
        np.testing.assert_array_equal(one.pixels, reader.read_pixels(data, SIDE))
        assert one.sha256 == hashlib.sha256(data).hexdigest()
        assert (one.size, one.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


def test_each_list_of_requests_has_its_own_size(decoders: DecoderPool, inbox: Path) -> None:
    """As of two models at work in one process."""
    for side in (SIDE, 48, 150):
        (one,) = decoders.decode(decode_requests(inbox)[:1], side)
        assert isinstance(one, DecodedFile)
        data = (inbox / os.fsdecode(decode_requests(inbox)[0].path)).read_bytes()
        np.testing.assert_array_equal(one.pixels, reader.read_pixels(data, side))


def test_nothing_to_fetch(decoders: DecoderPool) -> None:
    assert decoders.decode([], SIDE) == []


def test_every_kind_of_bad_file_costs_itself_alone(decoders: DecoderPool, inbox: Path) -> None:
    images = sorted(inbox.iterdir())
    (inbox / "empty").touch()
    (inbox / "text").write_bytes(b"no image\n")
    (inbox / "cut").write_bytes(images[0].read_bytes()[:9000])
    (inbox / "big").write_bytes(bytes(BOUNDS.max_bytes + 1))
    (inbox / "folder").mkdir()
    (inbox / "link").symlink_to(images[0])
    os.mkfifo(inbox / "pipe")
    names = ["empty", "text", "cut", "big", "folder", "link", "pipe", "gone", "folder/../text"]
    mixed = [name for pair in zip(names, [path.name for path in images], strict=False) for name in pair]
    fetched = decoders.decode(decode_requests(inbox, *mixed), SIDE)
    assert [one.reason if isinstance(one, DecodeFailure) else None for one in fetched][::2] == [
        "empty", "unsupported", "unreadable", "too_large", "not_a_file", "not_a_file", "not_a_file", "vanished",
        "not_a_file",
    ]  # fmt: skip
    assert all(isinstance(one, DecodedFile) for one in fetched[1::2])


def test_an_inbox_that_is_not_there_is_away(decoders: DecoderPool, inbox: Path) -> None:
    gone = DecodeRequest(1, inbox / "unmounted", b"a.jpeg")
    fetched = decoders.decode([gone, *decode_requests(inbox)[:1]], SIDE)
    assert fetched[0] == FileUnavailable(1)
    assert isinstance(fetched[1], DecodedFile)


@pytest.mark.parametrize(
    "order", [fault_injection.KILL, fault_injection.EXIT, fault_injection.CRASH], ids=["kill", "exit", "crash"]
)
def test_an_image_that_brings_its_decoder_down_costs_itself_alone(
    faulty_decoders: DecoderPool, inbox: Path, order: bytes
) -> None:
    (inbox / "b-bad").write_bytes(order)  # sorted in front: in one chunk with good ones
    fetched = faulty_decoders.decode(decode_requests(inbox), SIDE)
    assert reasons(fetched) == {100: "unreadable"}
    assert len(fetched) == 13


def test_two_bad_ones_in_one_chunk_are_both_found(faulty_decoders: DecoderPool, inbox: Path) -> None:
    (inbox / "a-bad").write_bytes(fault_injection.KILL)
    (inbox / "b-bad").write_bytes(fault_injection.KILL)
    assert reasons(faulty_decoders.decode(decode_requests(inbox), SIDE)) == {100: "unreadable", 101: "unreadable"}


def test_a_child_that_was_killed_from_outside_costs_no_image(faulty_decoders: DecoderPool, inbox: Path) -> None:
    """By the out-of-memory killer, say: each of its chunk is tried again by itself."""
    (inbox / "a-once").write_bytes(fault_injection.ONCE)
    fetched = faulty_decoders.decode(decode_requests(inbox), SIDE)
    assert reasons(fetched) == {100: "unsupported"}  # what its content is


def test_an_image_that_hangs_is_cut_off(faulty_decoders: DecoderPool, inbox: Path) -> None:
    (inbox / "a-slow").write_bytes(fault_injection.HANG)
    started = time.monotonic()
    fetched = faulty_decoders.decode(decode_requests(inbox), SIDE)
    took = time.monotonic() - started
    assert reasons(fetched) == {100: "too_slow"}
    assert sum(isinstance(one, DecodedFile) for one in fetched) == 12
    assert took < 2 * SECONDS + 60  # once in its chunk, once alone, and children started anew


def test_a_slow_image_does_not_use_up_the_time_of_others(faulty_decoders: DecoderPool, inbox: Path) -> None:
    """The time limit is per image: several that are slow, but not too slow, are read in one chunk."""
    for name in "abc":
        (inbox / f"{name}-slow").write_bytes(fault_injection.SLOW % (SECONDS * 0.6))
    fetched = faulty_decoders.decode(decode_requests(inbox, "a-slow", "b-slow", "c-slow"), SIDE)
    assert set(reasons(fetched).values()) == {"unsupported"}  # what their content is


def test_an_image_that_would_take_all_memory_is_refused_it(faulty_decoders: DecoderPool, inbox: Path) -> None:
    (inbox / "a-vast").write_bytes(fault_injection.GROW)
    fetched = faulty_decoders.decode(decode_requests(inbox), SIDE)
    assert reasons(fetched) == {100: "too_large"}
    assert sum(isinstance(one, DecodedFile) for one in fetched) == 12


def test_no_alarm_is_left_behind_by_an_image_that_ran_out_of_memory(faulty_decoders: DecoderPool, inbox: Path) -> None:
    """It would end the child during a later image, or while idle, which costs the whole pool."""
    (inbox / "a-vast").write_bytes(fault_injection.GROW)
    faulty_decoders.decode(decode_requests(inbox, "a-vast"), SIDE)
    before = set(children())
    time.sleep(SECONDS + 0.5)  # an alarm left behind would fire now, and only its child would show it
    assert all(isinstance(one, DecodedFile) for one in faulty_decoders.decode(decode_requests(inbox)[1:], SIDE))
    assert set(children()) == before


@pytest.mark.usefixtures("faulty_decoders")
def test_a_child_that_leaks_is_replaced_before_another_image_pays_for_it(inbox: Path) -> None:
    """Of a gigabyte, two leaks leave nothing for a third. Nothing here is about time, which a busy machine takes."""
    images = decode_requests(inbox)
    leaks = [f"leak-{number}" for number in range(8)]
    for name in leaks:
        (inbox / name).write_bytes(fault_injection.LEAK)
    with closing(DecoderPool(2, replace(BOUNDS, seconds=60))) as patient_decoders:
        for request in decode_requests(inbox, *leaks):
            assert reasons(patient_decoders.decode([request], SIDE)) == {
                request.scan_id: "unsupported"
            }  # what its content is
        assert all(isinstance(one, DecodedFile) for one in patient_decoders.decode(images, SIDE))


def cores(pid: int) -> list[str]:
    """Return its soft and hard limit on core files."""
    lines = Path(f"/proc/{pid}/limits").read_text("ascii").splitlines()
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


def test_children_leave_no_core_behind(decoders: DecoderPool) -> None:
    """A core file would hold a patient's image."""

    def found() -> list[list[str]]:
        return [cores(pid) for pid in children()]  # those of other tests' pools with them

    # one that was just started has not said so yet
    eventually(lambda: len(found()) >= 2 and all(one == ["0", "0"] for one in found()), message=lambda: f"{found()}")


def test_the_pool_is_whole_after_all_that(decoders: DecoderPool, inbox: Path) -> None:
    assert all(isinstance(one, DecodedFile) for one in decoders.decode(decode_requests(inbox), SIDE))


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_children_killed_while_they_had_nothing_to_do(inbox: Path, signal_number: int) -> None:
    """No result is awaited from them then, and the next images must find replacements."""
    before = set(children())
    decoders = DecoderPool(2, BOUNDS)
    decoders.warm()
    try:
        mine = [pid for pid in children() if pid not in before]
        assert len(mine) == 2
        for pid in mine:
            os.kill(pid, signal_number)
        eventually(lambda: not decoders._pool.active)  # it has noticed
        for _ in range(2):
            assert all(isinstance(one, DecodedFile) for one in decoders.decode(decode_requests(inbox), SIDE))
    finally:
        decoders.close()


# what is left of a worker that was killed

PARENT = """
import signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support import fault_injection
from worker import decode
from worker.decode import DecoderLimits, DecoderPool, DecodeRequest

if __name__ == "__main__":
    decode.read_and_decode = fault_injection.read_and_decode
    decoders = DecoderPool(2, DecoderLimits(2_000_000, 4_000_000, 600.0))
    decoders.warm()
    print(*decoders._pool._pool_manager.worker_manager.workers, flush=True)
    folder = Path({inbox!r})
    decoders.decode([DecodeRequest(1, folder, name.encode()) for name in {names!r}], 64)
    signal.pause()
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("names", [[], ["slow"]], ids=["idle", "hanging"])
def test_children_end_when_their_worker_is_killed(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "slow").write_bytes(fault_injection.HANG)
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(TESTS), inbox=str(tmp_path), names=names), "utf-8")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        eventually(lambda: all((tmp_path / f".{name}.hangs").exists() for name in names))
        assert all(is_alive(pid) for pid in pids)
        parent.kill()
        parent.wait()
    try:
        eventually(lambda: not any(is_alive(pid) for pid in pids))
    finally:
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_set_while_an_image_is_read_costs_it_nothing(
    faulty_decoders: DecoderPool, inbox: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Pebble's own limit uses the wall clock."""
    (inbox / "slow").write_bytes(fault_injection.SLOW % 1.0)
    real, begun = time.time, time.monotonic()
    monkeypatch.setattr(time, "time", lambda: real() + (hours * 3600 if time.monotonic() > begun + 0.3 else 0))
    (found,) = faulty_decoders.decode(decode_requests(inbox, "slow"), SIDE)
    assert isinstance(found, DecodeFailure)
    assert found.reason == "unsupported"  # it was read: it is no picture


def test_a_share_that_hangs_over_an_image_is_away_and_its_images_wait(
    faulty_decoders: DecoderPool, inbox: Path
) -> None:
    """None of its images is reported as slow or waited for twice, and those of other inboxes are read."""
    share = inbox.with_name("share")
    share.mkdir()
    (share / "a.png").write_bytes(fault_injection.UNANSWERED)
    (share / "b.png").write_bytes(b"image")
    good = decode_requests(inbox)[:2]
    images = [good[0], *(DecodeRequest(number, share, b"%c.png" % (96 + number)) for number in (1, 2)), good[1]]
    fetched = faulty_decoders.decode(images, SIDE)
    assert [one.scan_id for one in fetched] == [request.scan_id for request in images]
    assert [type(one) for one in fetched].count(FileUnavailable) >= 1
    assert fetched[1] == FileUnavailable(1)
    assert isinstance(fetched[0], DecodedFile)
    assert isinstance(fetched[3], DecodedFile)
