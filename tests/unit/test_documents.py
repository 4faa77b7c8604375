"""What is written down must be what is so."""

from pathlib import Path

from formats import __main__ as formats

from pneumowatch.settings import document

ROOT = Path(__file__).parents[2]


def test_settings_are_documented_as_they_are() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == document(), "run `make settings`"


def test_what_is_read_is_documented_as_it_is() -> None:
    """Also reads every film there, and fails where one is not as the page says."""
    assert formats.PAGE.read_text("utf-8") == formats.page(), "run `make formats`"
