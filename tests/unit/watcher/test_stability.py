from hypothesis import given
from hypothesis import strategies as st

from watcher.stability import FileKey, Unsettled, is_complete, judge

SETTLE = 5.0
KEY = FileKey("ward", b"film.jpeg")
LOOKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0.1, 4)), min_size=1, max_size=30)


def test_unchanged_for_long_enough_is_complete() -> None:
    unsettled = Unsettled(SETTLE)
    assert not unsettled.look(KEY, 10, 1, moment=100)
    assert not unsettled.look(KEY, 10, 1, moment=104.9)
    assert unsettled.ripe(moment=105) == [KEY]
    assert unsettled.look(KEY, 10, 1, moment=105)
    assert len(unsettled) == 0


def test_a_change_of_size_or_time_starts_the_wait_anew() -> None:
    unsettled = Unsettled(SETTLE)
    assert not unsettled.look(KEY, 10, 1, moment=100)
    assert not unsettled.look(KEY, 11, 1, moment=104)
    assert not unsettled.look(KEY, 11, 2, moment=108)
    assert unsettled.next_ripe() == 113
    assert not unsettled.look(KEY, 11, 2, moment=112)
    assert unsettled.look(KEY, 11, 2, moment=113)


def test_without_a_wait_the_first_look_decides() -> None:
    assert Unsettled(0).look(KEY, 10, 1, moment=100)


def test_nothing_unsettled_is_never_due() -> None:
    unsettled = Unsettled(SETTLE)
    unsettled.look(KEY, 10, 1, moment=100)
    unsettled.forget(KEY)
    assert unsettled.next_ripe() is None
    assert unsettled.ripe(moment=1e9) == []


@given(LOOKS)
def test_complete_means_the_same_for_as_long_as_it_takes(looks: list[tuple[int, int, float]]) -> None:
    """Whatever the mtimes say: a file's clock is another machine's."""
    moment, before, seen = 0.0, None, []
    for size, mtime, pause in looks:
        moment += pause
        seen.append((size, mtime, moment))
        before = judge(before, size, mtime, moment)
        since = moment
        for earlier_size, earlier_mtime, earlier in reversed(seen):
            if (earlier_size, earlier_mtime) != (size, mtime):
                break
            since = earlier
        assert is_complete(before, moment, SETTLE) == (moment - since >= SETTLE)
