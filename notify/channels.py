"""Channels that send notifications about newly flagged scans.

A channel sends notifications to one destination. It returns once the destination has accepted them, or raises
DeliveryFailed. A notification contains nothing of the patient. Channels do not use the database: `db.ledger.outbox`
stores what is to be delivered, and `notify.dispatcher` calls the channels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pneumowatch.notification import Notification
from pneumowatch.settings import Settings


class Channel(Protocol):
    """A channel to one destination."""

    @property
    def kind(self) -> str:
        """Name of the channel, as in `Settings.notification_channels`."""

    def deliver(self, notifications: Sequence[Notification]) -> None:
        """Send notifications; a repeat sends the same under the same ids. Raises DeliveryFailed with its kind."""


def configured_channels(settings: Settings, inboxes: Mapping[str, Path]) -> list[Channel]:
    """Return the channels that the settings name. `inboxes`: name -> folder, as mounted on this machine.

    Raises SettingsError where the settings of a channel cannot be used.
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
