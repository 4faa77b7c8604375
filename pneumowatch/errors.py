"""The errors that users and operators see: one base class, one sentence each.

The outermost code catches `PneumowatchError` and prints its sentence, nothing else. A library's exception is translated
once, where the library is called. No sentence names a patient, or a file name that might name one.
"""

from typing import Final

from pneumowatch.header import Header

TOO_MUCH_MEMORY: Final = "Reading the file takes more memory than is allowed."


class PneumowatchError(Exception):
    """Base of every error that is shown to a user or an operator."""


class SettingsError(PneumowatchError):
    """A setting is missing or has a value that cannot be used; the sentence names it."""


class ShareUnavailable(PneumowatchError):
    """The share under an inbox does not answer; its scans wait until it does."""


class DatabaseUnavailable(PneumowatchError):
    """The database does not answer, and the command reports this instead of waiting."""


class BrokerUnavailable(PneumowatchError):
    """The message broker does not answer; rows wait in the database and are announced later."""


class SchemaMismatch(PneumowatchError):
    """The database's tables are not those of this version; the sentence says what to do."""


class ModelError(PneumowatchError):
    """A model folder cannot be used: a part of it is missing, changed or not allowed."""


class DeviceOutOfMemory(PneumowatchError):
    """The device that runs the model currently has too little free memory for even one image."""


class TrainingError(PneumowatchError):
    """A training run cannot start or continue with the given data or options."""


class ReviewRefused(PneumowatchError):
    """A verdict cannot be recorded: there is no such scan or prediction, or no result to review yet."""


class DeliveryFailed(PneumowatchError):
    """A destination has not accepted a delivery.

    Args:
        kind: one word for the failure; it contains nothing of what was sent.
        unavailable: the destination itself does not work at present, so other deliveries need not be tried at once.
        permanent: the destination will never accept this delivery.
        retry_after: seconds that the destination asked to wait before the next attempt.
    """

    def __init__(self, kind: str, unavailable: bool = True, permanent: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(f"The delivery failed ({kind}).")
        self.kind = kind
        self.unavailable = unavailable
        self.permanent = permanent
        self.retry_after = retry_after


class AccountRefused(PneumowatchError):
    """An account, password or token cannot be made or changed as asked; the sentence says why."""


class UploadRefused(PneumowatchError):
    """The review app does not accept an uploaded file; `status` is the HTTP status of the answer."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


class BackupError(PneumowatchError):
    """A backup cannot be made or restored; the sentence says why, and what is unchanged."""


class ErasureRefused(PneumowatchError):
    """Nothing can be erased as asked: there is no such patient or scan, or its file is still being read."""


class ShuttingDown(PneumowatchError):
    """Shutdown was requested while a thread waited; the rows that it held stay unchanged in the database."""


class ImageRejected(PneumowatchError):
    """A file that gets no prediction.

    `reason` is one of the codes of `db.states.Reason`, as a plain string: the image reader does not import `db`. The
    sentence is for a technician: what is wrong with the file and what to do, without the file's name. `header` is
    set where the file is DICOM and its header could be read, so that its study can be found.
    """

    def __init__(self, reason: str, sentence: str, header: Header | None = None) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence
        self.header = header

    def __reduce__(self) -> tuple[type, tuple[str, str, Header | None]]:
        return type(self), (self.reason, self.sentence, self.header)
