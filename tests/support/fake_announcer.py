"""An announcer to test with: it notes what it is told, and can be out of reach."""

from collections.abc import Iterable

from pneumowatch.errors import BrokerUnavailable


class FakeAnnouncer:
    """Note the ids of announced scans in `announced`; raise BrokerUnavailable while `away`.

    `held` is how many messages the broker is said to hold.
    """

    def __init__(self, away: bool = False, held: int = 0) -> None:
        self.away = away
        self.held = held
        self.announced: list[int] = []

    def announce(self, ids: Iterable[int]) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.announced += ids

    def outstanding(self) -> int:
        if self.away:
            raise BrokerUnavailable("away")
        return self.held
