"""When a file is complete: a rule over observations, on a clock that the test controls."""

from hypothesis import given
from hypothesis import strategies as st

from watcher.stability import FileKey, Observation, UnsettledFiles, is_complete, next_observation

KEY = FileKey("inbox", b"a.png")
SETTLE = 5.0
looks = st.lists(
    st.tuples(st.floats(0, 4), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30
)  # seconds since the look before, size, mtime


def test_a_first_look_begins_the_time() -> None:
    assert next_observation(None, 1, 2, 10.0) == Observation(1, 2, 10.0)


def test_nothing_changed_keeps_the_time() -> None:
    observation = Observation(1, 2, 10.0)
    assert next_observation(observation, 1, 2, 99.0) is observation


def test_any_change_begins_it_anew() -> None:
    observation = Observation(1, 2, 10.0)
    assert next_observation(observation, 3, 2, 11.0).since == 11.0
    assert next_observation(observation, 1, 1, 11.0).since == 11.0  # also an earlier mtime: a copy keeps the original's


def test_complete_after_the_time_and_not_before() -> None:
    observation = Observation(1, 2, 10.0)
    assert not is_complete(observation, 14.9, SETTLE)
    assert is_complete(observation, 15.0, SETTLE)


def test_without_settling_every_file_is_complete_at_once() -> None:
    assert UnsettledFiles(0).observe(KEY, 1, 2, 10.0)


def test_an_mtime_in_the_future_is_no_hindrance() -> None:
    unsettled = UnsettledFiles(SETTLE)
    assert not unsettled.observe(KEY, 1, 2**62, 10.0)
    assert unsettled.observe(KEY, 1, 2**62, 15.0)


@given(looks)
def test_complete_only_after_it_was_unchanged_for_the_whole_time(steps: list[tuple[float, int, int]]) -> None:
    unsettled = UnsettledFiles(SETTLE)
    moment, since, before = 100.0, 100.0, None
    for pause, size, mtime_ns in steps:
        moment += pause
        if (size, mtime_ns) != before:
            since, before = moment, (size, mtime_ns)
        assert unsettled.observe(KEY, size, mtime_ns, moment) == (moment - since >= SETTLE)
        assert len(unsettled) == (moment - since < SETTLE)
        if moment - since >= SETTLE:
            before = None  # it is no longer held: the next look is a first one


@given(st.dictionaries(st.binary(min_size=1, max_size=3), st.floats(0, 100), max_size=10), st.floats(0, 200))
def test_ripe_are_those_whose_next_look_decides(firsts: dict[bytes, float], moment: float) -> None:
    unsettled = UnsettledFiles(SETTLE)
    for path, first in firsts.items():
        unsettled.observe(FileKey("inbox", path), 1, 2, first)
    ripe = unsettled.due(moment)
    assert {key.path for key in ripe} == {path for path, first in firsts.items() if moment - first >= SETTLE}
    assert all(unsettled.observe(key, 1, 2, moment) for key in ripe)
    assert unsettled.due(moment) == []


@given(st.lists(st.floats(0, 1e9), max_size=10))
def test_the_next_ripe_is_the_first_of_them(firsts: list[float]) -> None:
    unsettled = UnsettledFiles(SETTLE)
    for number, first in enumerate(firsts):
        unsettled.observe(FileKey("inbox", bytes([number])), 1, 2, first)
    assert unsettled.next_due() == (min(firsts) + SETTLE if firsts else None)


def test_a_forgotten_file_begins_anew() -> None:
    unsettled = UnsettledFiles(SETTLE)
    unsettled.observe(KEY, 1, 2, 10.0)
    unsettled.forget(KEY)
    unsettled.forget(KEY)
    assert len(unsettled) == 0
    assert not unsettled.observe(KEY, 1, 2, 16.0)


def test_the_same_path_in_two_inboxes_is_two_files() -> None:
    unsettled = UnsettledFiles(SETTLE)
    unsettled.observe(FileKey("one", b"a"), 1, 2, 10.0)
    assert not unsettled.observe(FileKey("two", b"a"), 1, 2, 15.0)
    assert unsettled.observe(FileKey("one", b"a"), 1, 2, 15.0)
