"""The patient key: the secret with which patient IDs are hashed, so that they can be compared but not recovered.

A deployment has one key: with another, the same patient would have another hash. `db.deployment` enforces this.
"""

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

from pneumowatch.errors import SettingsError

KEY_BYTES: Final = 32
KEY_FILE_VARIABLE: Final = "PNEUMOWATCH_PATIENT_KEY_FILE"


def read_key(file: Path) -> bytes:
    """Return the 32 bytes that the file holds as 64 hexadecimal digits. Raises SettingsError where it does not."""
    try:
        text = file.read_bytes().decode("ascii").strip()
        key = bytes.fromhex(text)
    except FileNotFoundError:
        raise SettingsError(
            f"The patient key is missing: there is no file {file}. Copy it from another machine of this deployment or "
            f"from its backup, or name it in {KEY_FILE_VARIABLE}."
        ) from None
    except OSError as error:
        raise SettingsError(f"The patient key {file} cannot be read: {error.strerror}.") from None
    except ValueError:  # not ASCII, or no hexadecimal digits; the error itself would quote the secret
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(
            f"The patient key {file} is damaged: it does not hold {2 * KEY_BYTES} hexadecimal digits. Restore it from "
            "its backup."
        )
    return key


def read_or_create_key(file: Path) -> bytes:
    """Return the key, and create it first where there is none. Components that start at once agree on one key.

    Raises SettingsError where it can be neither read nor created.
    """
    if not os.access(file, os.F_OK):
        try:
            _create_key(file)
        except FileExistsError:
            pass  # another component was faster: its key counts
        except OSError as error:
            raise SettingsError(
                f"The patient key {file} cannot be made: {error.strerror}. Make its folder, with permission to write, "
                f"or name another file in {KEY_FILE_VARIABLE}."
            ) from None
    return read_key(file)


def hash_patient_id(key: bytes, patient_id: str, issuer: str = "") -> str:
    """Return the hash that is stored for this patient, in 64 hexadecimal digits.

    It is the HMAC-SHA-256 of the patient ID and its issuer, as the DICOM header states them.
    """
    return hmac.new(key, f"{issuer}\0{patient_id}".encode(), hashlib.sha256).hexdigest()


def key_fingerprint(key: bytes) -> str:
    """Return 64 hexadecimal digits that identify a key, and from which it cannot be recovered."""
    return hashlib.sha256(b"pneumowatch patient key\n" + key).hexdigest()


def _create_key(file: Path) -> None:
    """Create the file under its name only once all of it is on disk: a partial file would count as damaged."""
    descriptor, unfinished = tempfile.mkstemp(prefix=".patient-key-", dir=file.parent)  # readable by its owner only
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as key_file:
            key_file.write(secrets.token_hex(KEY_BYTES) + "\n")
            key_file.flush()
            os.fsync(key_file.fileno())
        os.link(unfinished, file)  # unlike a rename, a link never replaces a key that others already use
    finally:
        Path(unfinished).unlink()
