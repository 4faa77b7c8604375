"""The patient key: the secret under which patient IDs are hashed, so that they can be told apart but not read back.

One key a deployment: under another one, the same patient would be somebody else. `db.deployment` sees to that.
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
    """The 32 bytes that stand in the file as 64 hexadecimal digits. Raises SettingsError."""
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
    except ValueError:  # no ASCII or no hexadecimal digits; the error itself would quote the secret
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(
            f"The patient key {file} is damaged: it does not hold {2 * KEY_BYTES} hexadecimal digits. Restore it from "
            "its backup."
        )
    return key


def read_or_create_key(file: Path) -> bytes:
    """The key, made now where there is none. Parts that start at once agree on one. Raises SettingsError."""
    if not os.access(file, os.F_OK):
        try:
            _create_key(file)
        except FileExistsError:
            pass  # another part was quicker: its key counts
        except OSError as error:
            raise SettingsError(
                f"The patient key {file} cannot be made: {error.strerror}. Make its folder, with permission to write, "
                f"or name another file in {KEY_FILE_VARIABLE}."
            ) from None
    return read_key(file)


def hash_patient_id(key: bytes, patient_id: str, issuer: str = "") -> str:
    """What stands in a row for this patient: HMAC-SHA-256 of the patient ID and its issuer, as their DICOM header has
    them; 64 hexadecimal digits."""
    return hmac.new(key, f"{issuer}\0{patient_id}".encode(), hashlib.sha256).hexdigest()


def key_fingerprint(key: bytes) -> str:
    """By which a key is recognised, and from which it cannot be found: 64 hexadecimal digits."""
    return hashlib.sha256(b"pneumowatch patient key\n" + key).hexdigest()


def _create_key(file: Path) -> None:
    """The file appears under its name when all of it is on the disk: a half one would be taken for damaged."""
    descriptor, unfinished = tempfile.mkstemp(prefix=".patient-key-", dir=file.parent)  # for its owner only
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as key_file:
            key_file.write(secrets.token_hex(KEY_BYTES) + "\n")
            key_file.flush()
            os.fsync(key_file.fileno())
        os.link(unfinished, file)  # unlike a rename, it never replaces a key that others have begun to use
    finally:
        Path(unfinished).unlink()
