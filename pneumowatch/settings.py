"""Read the settings from the environment, once. All components get the frozen result; no other code reads it."""

import os
import re
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pneumowatch.errors import SettingsError

ENV_PREFIX: Final = "PNEUMOWATCH_"
# may come from the file named by PNEUMOWATCH_<NAME>_FILE
SECRETS: Final = ("DATABASE_URL", "BROKER_URL", "WEBHOOK_SECRET", "MAIL_PASSWORD", "PACS_TOKEN")
EMBEDDED_BROKER: Final = "memory://localhost/"
WATCH_MODES: Final = ("events", "poll", "both")
IPNetwork = IPv4Network | IPv6Network
SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
SCRIPT_SCHEMES: Final = ("javascript", "data", "vbscript")  # schemes of links that would run code in our pages
INBOX_NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Settings(BaseSettings):
    """All settings of a deployment, each as PNEUMOWATCH_<NAME>; the defaults are those of the embedded `up`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,  # compose files set unused variables to the empty string
        frozen=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    inboxes: Annotated[dict[str, Path], NoDecode] = Field(
        default={}, description="name=path,... of the watched folders"
    )
    data_dir: Path = Field(default=Path("data"), description="folder for everything that pneumowatch writes")
    database_url: str = Field(default="", description="SQLAlchemy URL; empty: SQLite in the data folder")
    broker_url: str = Field(default=EMBEDDED_BROKER, description="Redis URL; the default works within one process only")
    model_dir: Path | None = Field(default=None, description="model store; empty: DATA_DIR/models")
    patient_key_file: Path | None = Field(
        default=None,
        description="file with the secret that hashes patient IDs; empty: DATA_DIR/patient.key, created once",
    )

    settle_seconds: float = Field(
        default=5.0, ge=0, description="a file is complete once it is unchanged for this long"
    )
    rescan_seconds: float = Field(
        default=60.0, gt=0, description="time between two comparisons of a folder with the database"
    )
    poll_seconds: float = Field(default=5.0, gt=0, description="the same for folders without reliable file events")
    watch_modes: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="name=MODE,... with events, poll or both; else the file system of the inbox decides",
    )
    mount_grace_seconds: float = Field(
        default=3600.0,
        ge=0,
        description="time until another folder at an inbox's path is trusted while scans wait that it does not hold",
    )
    sweep_seconds: float = Field(
        default=1.0, gt=0, description="time between two sweeps, which find expired leases and lost messages"
    )
    lease_seconds: float = Field(default=120.0, gt=0, description="a claim expires after this long without progress")
    max_attempts: int = Field(
        default=3, ge=1, description="a quarantined scan is failed after this many failed attempts"
    )

    priority_folders: str = Field(
        default="STAT",
        description="name,... of folders whose images are processed first, at any depth, in upper or lower case",
    )
    waiting_cap_minutes: float = Field(
        default=60.0, gt=0, description="priority scans delay the others by no more than this"
    )

    batch_size: int = Field(
        default=32, ge=1, le=1024, description="most images in one predict, and most scans in one message"
    )
    decoders: int = Field(default=0, ge=0, description="decoding processes; 0: one per core, at most eight")
    decode_seconds: float = Field(default=30.0, gt=0, description="most time for decoding one image")
    decode_memory: int = Field(default=4 * 2**30, gt=0, description="most memory of one decoding process, bytes")
    max_bytes: int = Field(default=512 * 2**20, gt=0, description="largest size of an image file, bytes")
    max_pixels: int = Field(default=200_000_000, gt=0, description="largest width x height of an image")
    outside_age: str = Field(
        default="caution",
        pattern="^(caution|reject)$",
        description="for patients older or younger than those of the training set: caution or reject",
    )

    training_dir: Path | None = Field(
        default=None, description="folder with the labelled images of the base dataset; without it no model is promoted"
    )
    retrain_at: str = Field(
        default="02:00",
        pattern="^(never|([01][0-9]|2[0-3]):[0-5][0-9])$",
        description="local time of the nightly retraining, HH:MM, or never",
    )
    min_new_labels: int = Field(default=20, ge=1, description="newly reviewed images that a retraining needs to start")
    patient_pattern: str = Field(
        default="", description="regular expression for the patient in a file's name, tried before the Kermany set's"
    )
    keep_images: str = Field(
        default="flagged",
        pattern="^(judged|flagged|all)$",
        description="which reduced images are kept in DATA_DIR/images: judged, flagged (and judged), or all",
    )

    silence_factor: float = Field(
        default=2.0,
        ge=1,
        description="a source is silent after this many times its usual pause at this time of the week",
    )
    silence_minutes: float = Field(default=60.0, ge=0, description="a shorter pause never counts as silence")

    review_url: str = Field(default="", description="address of the review app, for links in notifications")
    webhook_url: str = Field(
        default="", description="receives each newly flagged scan (docs/operate/notifications.md); empty: no webhook"
    )
    webhook_secret: str = Field(
        default="", description="key that signs webhook messages: whsec_ and base64, or any text"
    )
    mail_url: str = Field(
        default="", description="smtp://USER@HOST:587 (STARTTLS), smtps:// (TLS) or smtp+plain://; empty: no e-mail"
    )
    mail_password: str = Field(default="", description="password of the user in PNEUMOWATCH_MAIL_URL")
    mail_from: str = Field(default="", description="address of the sender")
    mail_to: str = Field(default="", description="addresses of the recipients, comma-separated")
    mail_minutes: float = Field(default=15.0, ge=0, description="at most one e-mail in this time, with all new scans")
    pacs_url: str = Field(
        default="",
        description="gets results (docs/operate/pacs.md): dicom://AET@HOST:PORT, dicoms:// (TLS), https:// (STOW-RS)",
    )
    pacs_calling_ae_title: str = Field(
        default="PNEUMOWATCH", pattern="^[ -[\\]-~]{1,16}$", description="AE title of pneumowatch"
    )
    pacs_token: str = Field(default="", description="bearer token for STOW-RS")
    pacs_cert_file: Path | None = Field(
        default=None, description="client certificate and key (PEM) for a dicoms:// PACS"
    )
    send_seconds: float = Field(default=10.0, gt=0, le=60, description="most time for each step of a delivery")
    resend_seconds: float = Field(default=5.0, gt=0, description="pause after a failed delivery; doubled each time")
    resend_cap_seconds: float = Field(default=900.0, gt=0, description="longest pause after a failed delivery")
    give_up_days: float = Field(default=3.0, gt=0, description="a delivery that has failed for this long is given up")

    sample_unflagged: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the unflagged images that readers review too, without being told",
    )
    reading_cap_minutes: float = Field(
        default=240.0, ge=0, description="a scan that waits longer for a reader comes first in the worklist; 0: never"
    )
    viewer_url: str = Field(
        default="",
        description="link to the department's image viewer, with {study_uid} in place of the study's UID",
    )
    review_port: int = Field(
        default=8550, ge=1, le=65535, description="port of the review app; `up` uses a free one where it is taken"
    )
    session_idle_minutes: float = Field(
        default=60, gt=0, description="a reader who is inactive for this long must sign in again"
    )
    session_hours: float = Field(default=12, gt=0, description="longest duration of one sign-in")
    trusted_proxies: Annotated[list[IPNetwork], NoDecode] = Field(
        default=[], description="addresses or networks, comma-separated, whose sign-on headers are trusted"
    )
    proxy_user_header: str = Field(default="X-Forwarded-User", description="header with the user's name")
    proxy_groups_header: str = Field(
        default="X-Forwarded-Groups", description="header with the user's groups, comma-separated"
    )
    proxy_reader_group: str = Field(
        default="", description="group whose users are readers; empty: all users of the proxy"
    )
    proxy_admin_group: str = Field(default="", description="group whose users are admins; empty: none")

    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="port of this component's /metrics; 0: none (the review app also serves it on its own port)",
    )
    metrics_host: str = Field(default="127.0.0.1", description="address of this component's /metrics")

    log_format: str = Field(default="console", pattern="^(console|json)$", description="console or json")

    @field_validator("inboxes", mode="before")
    @classmethod
    def _parse_inboxes(cls, value: Any) -> Any:
        return parse_inboxes(value) if isinstance(value, str) else value

    @field_validator("watch_modes", mode="before")
    @classmethod
    def _parse_watch_modes(cls, value: Any) -> Any:
        return parse_watch_modes(value) if isinstance(value, str) else value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _parse_networks(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [ip_network(part.strip(), strict=False) for part in value.split(",") if part.strip()]

    @field_validator("viewer_url")
    @classmethod
    def _check_viewer(cls, value: str) -> str:
        scheme = value.partition(":")[0].strip().lower()
        if value and ("{study_uid}" not in value or not SCHEME.fullmatch(scheme) or scheme in SCRIPT_SCHEMES):
            raise ValueError("this is not a link with {study_uid} in it (https://viewer/?study={study_uid})")
        return value

    @field_validator("patient_pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"this is not a regular expression ({error})") from None
        return value

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        from sqlalchemy import URL  # imported late, so that `--help` is fast

        file = URL.create("sqlite", database=str(self.data_dir.absolute() / "pneumowatch.db"))
        return self.database_url or file.render_as_string(hide_password=False)

    @cached_property
    def models(self) -> Path:
        return self.model_dir or self.data_dir / "models"

    @cached_property
    def patient_key_path(self) -> Path:
        return self.patient_key_file or self.data_dir / "patient.key"

    @property
    def notification_channels(self) -> tuple[str, ...]:
        """The channels that send newly flagged scans, as `notify.channels` names them; none by default."""
        urls = {"webhook": self.webhook_url, "mail": self.mail_url, "pacs": self.pacs_url}
        return tuple(name for name, url in urls.items() if url)

    @property
    def embedded_queue(self) -> bool:
        return self.broker_url.startswith("memory:")

    @property
    def decoder_count(self) -> int:
        return self.decoders or min(8, len(os.sched_getaffinity(0)))


def parse_inboxes(text: str) -> dict[str, Path]:
    """Parse `a=/inboxes/a,b=/inboxes/b` into {name: absolute path}. Raises ValueError."""
    inboxes: dict[str, Path] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, path = (side.strip() for side in item.partition("="))
        if not path or not INBOX_NAME_PATTERN.fullmatch(name):
            raise ValueError(f"'{item}' is not name=path (name: lower-case letters, digits, - and _)")
        if name in inboxes:
            raise ValueError(f"the name '{name}' is given twice")
        inboxes[name] = Path(path).absolute()
    return inboxes


def parse_watch_modes(text: str) -> dict[str, str]:
    """Parse `a=poll,b=events` into {name: mode}. Raises ValueError."""
    modes: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, mode = (side.strip() for side in item.partition("="))
        if mode not in WATCH_MODES:
            raise ValueError(f"'{item}' is not name=mode (mode: {', '.join(WATCH_MODES)})")
        modes[name] = mode
    return modes


def load_settings(**overrides: Any) -> Settings:
    """Load the settings from the environment; keyword arguments (command-line options) that are not None override it.

    Raises:
        SettingsError: names the variable and says what is wrong with it.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    for secret in SECRETS:
        file = os.environ.get(f"{ENV_PREFIX}{secret}_FILE")
        if file and not os.environ.get(f"{ENV_PREFIX}{secret}"):
            given.setdefault(secret.lower(), _read_secret(secret, file))
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = "; ".join(f"{ENV_PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors())
        raise SettingsError(f"A setting cannot be used. {faults}.") from None


def _read_secret(name: str, file: str) -> str:
    try:
        return Path(file).read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{ENV_PREFIX}{name}_FILE names a file that cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{ENV_PREFIX}{name}_FILE names a file that is not UTF-8 text.") from None


def render_settings_page() -> str:
    """Return docs/operate/settings.md: each variable, its default and its meaning (`make settings`)."""
    lines = [
        "# Settings",
        "",
        "Read once from the environment. Options on the command line override them. Written by `make settings`.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "", {}, []) else f"`{field.default}`"
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    *most, last = (f"`{ENV_PREFIX}{secret}_FILE`" for secret in SECRETS)
    files = f"{', '.join(most)} and {last}"
    return "\n".join([*lines, "", f"Secrets can be read from files: {files} name the file.", ""])
