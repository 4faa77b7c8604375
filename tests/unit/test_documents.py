"""What is written down must be what is so."""

from pathlib import Path

from pneumowatch.settings import document

ROOT = Path(__file__).parents[2]


def test_settings_are_documented_as_they_are() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == document(), "run `make settings`"
