"""The environment, read once. Every part gets the frozen result; nothing else looks at os.environ."""

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
WATCH_MODES: Final = ("events", "poll", "both")  # of watching an inbox
IPNetwork = IPv4Network | IPv6Network
SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
SCRIPT_SCHEMES: Final = ("javascript", "data", "vbscript")  # schemes that would run in a page of ours
INBOX_NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Settings(BaseSettings):
    """What a deployment can set, each as PNEUMOWATCH_<NAME>; the defaults are the embedded ones of `up`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,  # compose files leave empty what is not set
        frozen=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    inboxes: Annotated[dict[str, Path], NoDecode] = Field(default={}, description="name=path,... of the shared folders")
    data_dir: Path = Field(default=Path("data"), description="everything that pneumowatch itself writes")
    database_url: str = Field(default="", description="SQLAlchemy URL; empty: SQLite in the data folder")
    broker_url: str = Field(default=EMBEDDED_BROKER, description="Redis URL; the default lives inside one process")
    model_dir: Path | None = Field(default=None, description="model store; empty: DATA_DIR/models")
    patient_key_file: Path | None = Field(
        default=None, description="secret under which patient IDs are hashed; empty: DATA_DIR/patient.key, made once"
    )

    settle_seconds: float = Field(default=5.0, ge=0, description="a file unchanged for this long is complete")
    rescan_seconds: float = Field(default=60.0, gt=0, description="how often the folders are compared with the table")
    poll_seconds: float = Field(default=5.0, gt=0, description="the same for folders whose file events tell too little")
    watch_modes: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="name=events, poll or both,... where the file system under an inbox shall not decide that",
    )
    mount_grace_seconds: float = Field(
        default=3600.0,
        ge=0,
        description="another folder in an inbox's place is doubted for this long while films wait that are not in it",
    )
    sweep_seconds: float = Field(default=1.0, gt=0, description="how often forgotten rows are looked for")
    lease_seconds: float = Field(default=120.0, gt=0, description="a claim without progress for this long is void")
    max_attempts: int = Field(default=3, ge=1, description="worker deaths over one film alone before it is failed")

    priority_folders: str = Field(
        default="STAT", description="name,... of folders whose films go first, in capitals or not, at any depth"
    )
    waiting_cap_minutes: float = Field(
        default=60.0, gt=0, description="urgent films keep the others waiting for no longer than this"
    )

    batch_size: int = Field(default=32, ge=1, le=1024, description="films of one predict, and of one message")
    decoders: int = Field(default=0, ge=0, description="decoding child processes; 0: one a core, eight at most")
    decode_seconds: float = Field(default=30.0, gt=0, description="time bound on reading one film")
    decode_memory: int = Field(default=4 * 2**30, gt=0, description="bound on the memory of one decoding child, bytes")
    max_bytes: int = Field(default=512 * 2**20, gt=0, description="bound on a film's file size")
    max_pixels: int = Field(default=200_000_000, gt=0, description="bound on width x height of a film")
    outside_age: str = Field(
        default="caution",
        pattern="^(caution|reject)$",
        description="films of patients whose age the model does not know: caution or reject",
    )

    training_dir: Path | None = Field(
        default=None, description="labelled films of the base dataset; without it no model is promoted"
    )
    retrain_at: str = Field(
        default="02:00",
        pattern="^(never|([01][0-9]|2[0-3]):[0-5][0-9])$",
        description="local time of the nightly retrain, HH:MM, or never",
    )
    min_new_labels: int = Field(default=20, ge=1, description="judged films that must be new for a retrain to begin")
    patient_pattern: str = Field(
        default="", description="regular expression that finds the patient in a file's name, before the Kermany set's"
    )
    keep_images: str = Field(
        default="flagged",
        pattern="^(judged|flagged|all)$",
        description="whose reduced films are kept in DATA_DIR/images: judged, flagged (and judged), or all",
    )

    silence_factor: float = Field(
        default=2.0,
        ge=1,
        description="a source silent for so many times as long as usual at this time of the week alarms",
    )
    silence_minutes: float = Field(default=60.0, ge=0, description="no silence shorter than this alarms")

    review_url: str = Field(default="", description="where readers reach the desk, for links in what is sent out")
    webhook_url: str = Field(
        default="", description="told of each newly flagged scan (docs/operate/notifications.md); empty: nobody is"
    )
    webhook_secret: str = Field(
        default="", description="signs what the webhook is told: whsec_ and base64, or any text"
    )
    mail_url: str = Field(
        default="", description="smtp://USER@HOST:587 (STARTTLS), smtps:// (TLS) or smtp+plain://; empty: no e-mail"
    )
    mail_password: str = Field(default="", description="of the user in PNEUMOWATCH_MAIL_URL")
    mail_from: str = Field(default="", description="the sender's address")
    mail_to: str = Field(default="", description="addresses, with commas between them")
    mail_minutes: float = Field(default=15.0, ge=0, description="at most one e-mail in this time, with all that is new")
    pacs_url: str = Field(
        default="",
        description="dicom://AET@HOST:PORT, dicoms:// (TLS) or https://... (STOW-RS): takes results (docs/operate/pacs.md)",
    )
    pacs_calling_ae_title: str = Field(
        default="PNEUMOWATCH", pattern="^[ -[\\]-~]{1,16}$", description="our own AE title"
    )
    pacs_token: str = Field(default="", description="bearer token for STOW-RS")
    pacs_cert_file: Path | None = Field(default=None, description="certificate and key (PEM) shown to a dicoms:// PACS")
    send_seconds: float = Field(default=10.0, gt=0, le=60, description="time bound on one delivery's every step")
    resend_seconds: float = Field(
        default=5.0, gt=0, description="first pause after a failed delivery; doubled each time"
    )
    resend_cap_seconds: float = Field(default=900.0, gt=0, description="... up to this")
    give_up_days: float = Field(default=3.0, gt=0, description="what could not be delivered for this long is given up")

    sample_unflagged: float = Field(
        default=0.05, ge=0, le=1, description="share of the unflagged films that readers judge too, without being told"
    )
    reading_cap_minutes: float = Field(
        default=240.0, ge=0, description="what waits longer for a reader goes before all else; 0: nothing does"
    )
    viewer_url: str = Field(
        default="", description="link to the department's own viewer, with {study_uid} where the study's UID goes"
    )
    review_port: int = Field(
        default=8550, ge=1, le=65535, description="port of the desk; `up` takes a free one instead"
    )
    session_idle_minutes: float = Field(
        default=60, gt=0, description="a reader who does nothing for so long signs in anew"
    )
    session_hours: float = Field(default=12, gt=0, description="how long one sign-in lasts at most")
    trusted_proxies: Annotated[list[IPNetwork], NoDecode] = Field(
        default=[], description="addresses or networks, comma-separated, whose sign-on headers the desk believes"
    )
    proxy_user_header: str = Field(default="X-Forwarded-User", description="header in which the proxy names the user")
    proxy_groups_header: str = Field(
        default="X-Forwarded-Groups", description="header with the user's groups, comma-separated"
    )
    proxy_reader_group: str = Field(default="", description="group whose users may read; empty: all of the proxy's")
    proxy_admin_group: str = Field(default="", description="group whose users are admins; empty: no group is")

    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="where this part serves /metrics, beside the desk's own; 0: nowhere"
    )
    metrics_host: str = Field(default="127.0.0.1", description="the address for it")

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
            raise ValueError("it is no link with {study_uid} in it (https://viewer/?study={study_uid})")
        return value

    @field_validator("patient_pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"it is no regular expression ({error})") from None
        return value

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        from sqlalchemy import URL  # late: `--help` need not wait for it

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
        """Who is told of newly flagged scans, as `notify.channels` names them; none by default."""
        urls = {"webhook": self.webhook_url, "mail": self.mail_url, "pacs": self.pacs_url}
        return tuple(name for name, url in urls.items() if url)

    @property
    def embedded_queue(self) -> bool:
        return self.broker_url.startswith("memory:")

    @property
    def decoder_count(self) -> int:
        return self.decoders or min(8, len(os.sched_getaffinity(0)))


def parse_inboxes(text: str) -> dict[str, Path]:
    """`a=/inboxes/a,b=/inboxes/b` as {name: absolute path}. Raises ValueError."""
    inboxes: dict[str, Path] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, path = (side.strip() for side in item.partition("="))
        if not path or not INBOX_NAME_PATTERN.fullmatch(name):
            raise ValueError(f"'{item}' is not name=path (name: lower-case letters, digits, - and _)")
        if name in inboxes:
            raise ValueError(f"the name '{name}' stands twice")
        inboxes[name] = Path(path).absolute()
    return inboxes


def parse_watch_modes(text: str) -> dict[str, str]:
    """`a=poll,b=events` as {name: how}. Raises ValueError."""
    modes: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, mode = (side.strip() for side in item.partition("="))
        if mode not in WATCH_MODES:
            raise ValueError(f"'{item}' is not an inbox's name = {', '.join(WATCH_MODES)}")
        modes[name] = mode
    return modes


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment; keyword arguments that are not None win (command-line options).

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
        raise SettingsError(f"{ENV_PREFIX}{name}_FILE names a file that is no text.") from None


def render_settings_page() -> str:
    """docs/operate/settings.md: every variable, its default and what it does (`make settings`)."""
    lines = [
        "# Settings",
        "",
        "Read once from the environment; options on the command line win. Written by `make settings`.",
        "",
        "| variable | default | what |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "", {}, []) else f"`{field.default}`"
        lines.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {field.description} |")
    *most, last = (f"`{ENV_PREFIX}{secret}_FILE`" for secret in SECRETS)
    files = f"{', '.join(most)} and {last}"
    return "\n".join([*lines, "", f"{files} name a file to read the value from, for secrets.", ""])
