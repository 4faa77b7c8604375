"""The code is within the bounds of `make style`: names with one home, docstrings that begin with a verb."""

import style


def test_public_names_have_one_home() -> None:
    shared, share = style.shared_names()
    assert share <= style.MOST_SHARED, sorted(shared)


def test_docstrings_begin_with_a_verb() -> None:
    wrong, share = style.verbless()
    assert share >= style.FEWEST_VERBS, wrong


def test_it_finds_what_it_looks_for() -> None:
    assert style.begins_with_a_verb("Return the mean, float32 (n,).")
    for docstring in ("What becomes of it.", "The mean.", "of a scan", "Whether it is one.", "returns it"):
        assert not style.begins_with_a_verb(docstring)
