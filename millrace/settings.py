"""THE settings: everything that differs between one laptop and many machines, read once and passed in.

Each field is the environment variable `MILLRACE_<FIELD>`; nothing else in Millrace reads the environment. The defaults
are the embedded platform: SQLite and local files under `.millrace/`, one process, loopback only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSettingError

from millrace.errors import SettingsError
from millrace.quiet_hours import parse_quiet_hours

Severity = Literal["info", "warning", "critical"]
"""How soon somebody should know: when there is time, today, or now."""

_QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What the parts we stand on would otherwise send to their makers, or print over our own output. A value that the
operator has set stays as it is."""


class Settings(BaseSettings):
    """One value of every setting, validated; `docs/settings.md` is generated from the descriptions below."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_", frozen=True, extra="forbid")

    home: Path = Field(Path(".millrace"), description="Folder of the embedded platform's files.")
    use_cases: Path = Field(Path("examples"), description="Folder in which a use case is looked up by name.")
    database_url: str = Field(
        "",
        description="The platform's own database; empty means SQLite in the home folder. Write `postgresql+psycopg://…`.",
    )
    lake_url: str = Field(
        "", description="Root of the lake: a folder or an object-store URL (`s3://…`); empty means the home folder."
    )
    lake_options: dict[str, str] = Field(
        default_factory=dict, description="Storage options of the lake's object store, as JSON."
    )
    places: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Where sources read: a name and its folder, object-store URL or database URL, as JSON.",
    )
    place_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        repr=False,
        description="Options of fsspec for a place's object store (keys, endpoint): a name and its options, as JSON.",
    )
    mlflow_tracking_uri: str = Field("", description="MLflow's tracking server; empty means SQLite in the home folder.")
    bundle_dir: Path | None = Field(
        None, description="Folder of the model bundles that servers open; empty means the home folder."
    )
    online_store: Literal["sqlite", "redis"] = Field(
        "sqlite", description="Where fresh feature values are served from."
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis of the online store and the quotas.")
    redis_prefix: str = Field(
        "millrace", description="Prefix of every Redis key, so that several platforms share one Redis."
    )
    host: str = Field("127.0.0.1", description="Address that the HTTP server listens on.")
    port: int = Field(8100, ge=0, le=65535, description="Port that the HTTP server listens on; 0 takes a free one.")
    api_key: SecretStr | None = Field(
        None,
        description="The server's own key, with every scope, sent as `X-API-Key`; empty makes one in the home folder. "
        "`millrace keys` issues more.",
    )
    quota_requests_per_second: int = Field(
        0, ge=0, description="Requests a second of each key that has no quota of its own; 0 is none."
    )
    quota_rows_per_second: int = Field(
        0, ge=0, description="Rows a second of each key that has no quota of its own; 0 is none."
    )
    quota_concurrency: int = Field(
        0, ge=0, description="Requests at once of each key that has no quota of its own; 0 is none."
    )
    quota_store: Literal["memory", "redis"] = Field(
        "memory", description="Where quotas are counted: in each worker, or for all of them in Redis."
    )
    trusted_hosts: list[str] = Field(
        default_factory=list,
        description="Names in the `Host` header that the HTTP server answers to beside its own address, as JSON.",
    )
    workers: int = Field(
        1, ge=1, le=64, description="Processes that answer; more than one are kept alive by a parent process."
    )
    load_seconds: float = Field(
        60.0, gt=0, description="Seconds that opening a new champion may take; beyond them the old one goes on serving."
    )
    leave_seconds: float = Field(
        0.5,
        ge=0,
        le=300,
        description="Seconds between SIGTERM and the end of listening, in which load balancers see it is not ready.",
    )
    ship_minutes: float = Field(
        5.0,
        ge=0,
        description="Minutes between a server's moves of finished prediction-log segments into the lake; 0: never.",
    )
    request_rows: int = Field(1_000, ge=1, le=100_000, description="Most rows of one prediction request; more: 413.")
    request_mb: int = Field(4, ge=1, le=256, description="Most megabytes of one request's body; more: 413.")
    queue_rows: int = Field(20_000, ge=1, description="Most rows that wait for a model; beyond it: 503.")
    deadline_ms: int = Field(
        1_000, ge=1, description="Milliseconds that a prediction request may wait for the model; beyond them: 503."
    )
    log_full: Literal["refuse", "serve"] = Field(
        "refuse",
        description="What to do with predictions that the disk cannot record: refuse them (429), or answer them with "
        "the flag `unlogged`.",
    )
    feature_ms: int = Field(
        100,
        ge=1,
        description="Milliseconds that the online store may take to answer one read of a prediction's features; beyond "
        "them the feature views' `down` policies apply.",
    )
    idempotency_seconds: int = Field(
        600, ge=1, description="Seconds in which a prediction request with the same `Idempotency-Key` is a repeat."
    )
    idempotency_mb: int = Field(
        8, ge=0, description="Megabytes of answers kept for repeats, each worker, use case and protocol; 0 keeps none."
    )
    core_hour_price: float = Field(
        0.0,
        ge=0,
        description="Price of one core for one hour, in your currency, for the cost of predictions; 0: untold.",
    )
    exchange: Path | None = Field(
        None,
        description="Folder of the files that batch jobs asked for over HTTP may read and write; empty means "
        "`exchange` in the home folder.",
    )
    job_worker: Literal["here", "elsewhere"] = Field(
        "here",
        description="Who runs batch jobs asked for over HTTP: a process that the server starts, or a `millrace jobs "
        "work` of yours.",
    )
    measure_seconds: float = Field(
        10.0, gt=0, le=600, description="Seconds that measuring one model's latency may take, before its gate."
    )
    alerts: dict[Severity, list[str]] = Field(
        default_factory=dict,
        repr=False,
        description="Whom alerts are sent to, as JSON: a severity (`info`, `warning`, `critical`) and the Apprise URLs "
        "that are told of everything at least as severe.",
    )
    alert_quiet: str = Field(
        "",
        description="Hours in which only critical alerts are sent, such as `22:00-07:00 Europe/Berlin`; the others "
        "follow after them.",
    )
    alert_repeat_hours: float = Field(
        24.0, gt=0, description="Hours in which the same cause of a use case is told once."
    )
    alert_seconds: float = Field(
        10.0,
        gt=0,
        le=120,
        description="Seconds that sending alerts may hold up a flow; what is unsent then is retried.",
    )
    threads: int = Field(1, ge=1, le=256, description="Threads that one model uses for one batch.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "WARNING", description="Least severe level that is logged."
    )
    log_slow_ms: float = Field(
        500.0, ge=0, description="Milliseconds from which on the HTTP server logs a request as slow, stage by stage."
    )
    log_requests_per_second: int = Field(
        50, ge=0, description="Most log lines of a second about requests: the failed, the slow, and at INFO all others."
    )
    log_json: bool = Field(False, description="Write logs as JSON lines instead of text.")

    @field_validator("alerts")
    @classmethod
    def _are_urls(cls, given: dict[Severity, list[str]]) -> dict[Severity, list[str]]:
        """Each begins with a scheme; what is told of another is its place, as a URL may hold a secret."""
        for severity, urls in given.items():
            for place, url in enumerate(urls, 1):
                if not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://.", url):
                    raise ValueError(f"number {place} of {severity} is not an Apprise URL, such as json://host/path")
        return given

    @field_validator("alert_quiet")
    @classmethod
    def _is_a_stretch(cls, given: str) -> str:
        parse_quiet_hours(given)
        return given

    @property
    def database(self) -> str:
        """The platform database's URL, in full."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'millrace.db'}"

    @property
    def lake(self) -> str:
        """The lake's root: an absolute folder or an object-store URL."""
        return self.lake_url or str(self.home.absolute() / "lake")

    @property
    def mlflow(self) -> str:
        """MLflow's tracking URI, in full."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home.absolute() / 'mlflow.db'}"

    @property
    def bundles(self) -> Path:
        """The folder of bundles, absolute; one sub-folder a use case, one below it a version."""
        return (self.bundle_dir or self.home / "bundles").absolute()

    def folder(self, name: str) -> Path:
        """The absolute path of a folder of the home folder, made if absent."""
        path = self.home.absolute() / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def read_settings(**given: object) -> Settings:
    """The settings from the environment, with `given` on top.

    Raises `SettingsError` naming the variable, what it holds and what it may hold.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks what mypy cannot
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _unusable(str(first["loc"][0]), first["msg"]) from error
    except UnreadableSettingError as error:
        # Its message alone names the field: error parsing value for field "lake_options" from source …
        raise _unusable(str(error).split('"')[1], "it must be JSON") from error


def _unusable(field: str, why: str) -> SettingsError:
    return SettingsError(
        f"The setting MILLRACE_{field.upper()} cannot be used: {why}.",
        looked="Settings are read from the environment.",
        todo="See docs/settings.md for every setting and its default.",
    )


def embedded_in(home: Path) -> Settings:
    """The embedded platform in this folder, whatever stores and people to tell the environment names: a replay never
    touches those."""
    return read_settings(
        home=home,
        database_url="",
        lake_url="",
        mlflow_tracking_uri="",
        bundle_dir=None,
        online_store="sqlite",
        quota_store="memory",
        alerts={},
    )


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a process of ours that shall have exactly these settings."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    given = settings.model_dump(mode="json", exclude_defaults=True) | {"home": str(settings.home.absolute())}
    if settings.api_key is not None:
        given["api_key"] = settings.api_key.get_secret_value()
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return rest | {f"MILLRACE_{name.upper()}": value for name, value in texts.items()}


def ray_address() -> str:
    """The Ray cluster that the operator names by Ray's own variable, HOST:PORT; empty when there is none."""
    return os.environ.get("RAY_ADDRESS", "").strip()


def quiet_vendors() -> None:
    """Switch off the telemetry and the chatter of the parts we stand on, unless the operator said otherwise.

    Called once at the start of a process, before any of them is imported.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
