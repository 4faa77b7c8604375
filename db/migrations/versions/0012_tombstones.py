"""Erased scans: the view `unscored_cases`, which every migration makes anew, leaves them out. No table changes."""

from typing import Final

revision: Final = "0012"
down_revision: Final = "0011"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
