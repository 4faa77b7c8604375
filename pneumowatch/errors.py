"""The errors that reach people: one base, one sentence each.

Whoever catches `PneumowatchError` at an outer edge prints its sentence and nothing else. A library's exception is
translated where it is called, once. No sentence names a patient, nor a file name that might.
"""

from typing import Final

from pneumowatch.header import Header

TOO_MUCH_MEMORY: Final = "Reading it takes more memory than is allowed."


class PneumowatchError(Exception):
    """Base of every error that a user or an operator is told about."""


class SettingsError(PneumowatchError):
    """A setting is missing or has a value that cannot be used; the sentence names it."""


class ShareUnavailable(PneumowatchError):
    """The share under an inbox does not answer; its films wait until it does."""


class DatabaseUnavailable(PneumowatchError):
    """The database does not answer a command that would rather say so than wait."""


class BrokerUnavailable(PneumowatchError):
    """The message broker does not answer; rows wait in the database and are announced later."""


class SchemaMismatch(PneumowatchError):
    """The database's tables are not those of this version; the sentence says what to do."""


class ModelError(PneumowatchError):
    """A model folder cannot be used: something is missing, changed, or not allowed in it."""


class DeviceOutOfMemory(PneumowatchError):
    """The memory of the device on which a model reads does not hold even one film at the moment."""


class TrainingError(PneumowatchError):
    """A training run cannot start or go on with what it was given."""


class ReviewRefused(PneumowatchError):
    """A verdict cannot be recorded: there is no such scan or prediction, or nothing to judge yet."""


class DeliveryFailed(PneumowatchError):
    """A destination has not taken what was sent to it.

    Args:
        kind: one word that says what happened, and nothing of what was sent.
        unavailable: the destination itself does not work at present, so others need not be tried at once.
        permanent: it will never take this.
        retry_after: seconds that it asked for before the next attempt.
    """

    def __init__(self, kind: str, unavailable: bool = True, permanent: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(f"It was not delivered ({kind}).")
        self.kind = kind
        self.unavailable = unavailable
        self.permanent = permanent
        self.retry_after = retry_after


class AccountRefused(PneumowatchError):
    """An account, password or token cannot be made or changed as asked; the sentence says why."""


class UploadRefused(PneumowatchError):
    """A film cannot be taken in at the desk; `status` is HTTP's word for why."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


class BackupError(PneumowatchError):
    """A backup cannot be made, or cannot be put back; the sentence says why, and what stands as it was."""


class ErasureRefused(PneumowatchError):
    """Nothing can be erased as asked: there is no such patient or scan, or its film is still being read."""


class ShuttingDown(PneumowatchError):
    """Shutdown was asked for while a thread waited; what it held stays as it is in the database."""


class ImageRejected(PneumowatchError):
    """A file that gets no prediction.

    `reason` is one of `db.states.Reason`'s codes (a plain string here, as the reader of films knows no database), and
    the sentence is what a technician reads: what is wrong with the file and what to do, without the file's name.
    `header` where the file is DICOM and could be read that far, so that its study can be found.
    """

    def __init__(self, reason: str, sentence: str, header: Header | None = None) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence
        self.header = header

    def __reduce__(self) -> tuple[type, tuple[str, str, Header | None]]:
        return type(self), (self.reason, self.sentence, self.header)
