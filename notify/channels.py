"""What leaves the house: messages about newly flagged scans, and who carries them to where.

A courier is one way out. It is given notices, which say nothing of a patient, and returns when its destination has
taken them, or raises DeliveryFailed. It knows no database: `db.ledger.outbox` keeps what is to be delivered, `notify.dispatcher` sees to
it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pneumowatch.notification import Notification
from pneumowatch.settings import Settings


class Channel(Protocol):
    """One way out."""

    @property
    def kind(self) -> str:
        """Its name, as in `Settings.notification_channels`."""

    def deliver(self, notifications: Sequence[Notification]) -> None:
        """Raises DeliveryFailed, with which kind of failure it was. A repeat says the same under the same ids."""


def configured_channels(settings: Settings, inboxes: Mapping[str, Path]) -> list[Channel]:
    """Those that the settings name. `inboxes`: name -> folder, as mounted on this machine.

    Raises SettingsError where one of them cannot work as it is set.
    """
    channels: list[Channel] = []
    if settings.webhook_url:
        from notify.webhook import Webhook

        channels.append(Webhook(settings))
    if settings.mail_url:
        from notify.mail import Mail

        channels.append(Mail(settings))
    if settings.pacs_url:
        from notify.pacs import Pacs

        channels.append(Pacs(settings, inboxes))
    return channels
