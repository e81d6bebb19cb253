"""Settings: defaults, the environment, and what an impossible value is told."""

import pytest
from pydantic import SecretStr

from millrace.errors import SettingsError
from millrace.settings import Settings, child_environment, embedded_in, quiet_vendors, read_settings


def test_the_default_is_the_embedded_platform(tmp_path):
    settings = Settings(home=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/millrace.db"
    assert settings.lake == f"{tmp_path}/lake"
    assert settings.host == "127.0.0.1"


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("MILLRACE_PORT", "9000")
    assert read_settings().port == 9000


def test_what_is_given_beats_the_environment(monkeypatch):
    monkeypatch.setenv("MILLRACE_PORT", "9000")
    assert read_settings(port=9001).port == 9001


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "many"), ("PORT", "70000"), ("ONLINE_STORE", "floppy"), ("TRUSTED_HOSTS", "api")]
)
def test_an_impossible_value_names_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(f"MILLRACE_{name}", value)
    with pytest.raises(SettingsError, match=f"MILLRACE_{name}"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALERTS", '{"loud": ["json://host"]}'),
        ("ALERTS", '{"warning": ["hooks.example/s3cret"]}'),
        ("ALERT_QUIET", "22-7"),
        ("ALERT_QUIET", "22:00-07:00 Mars"),
    ],
)
def test_impossible_alerts_name_the_variable_and_nothing_of_a_url(monkeypatch, name, value):
    monkeypatch.setenv(f"MILLRACE_{name}", value)
    with pytest.raises(SettingsError, match=f"MILLRACE_{name} ") as raised:
        read_settings()
    assert "s3cret" not in str(raised.value)


def test_a_key_never_shows_in_print(monkeypatch):
    monkeypatch.setenv("MILLRACE_API_KEY", "secret-key")
    assert "secret-key" not in repr(read_settings())


def test_vendors_send_nothing_home_unless_the_operator_says_so(monkeypatch):
    import os

    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    quiet_vendors()
    assert (os.environ["DO_NOT_TRACK"], os.environ["MLFLOW_DISABLE_TELEMETRY"]) == ("0", "true")


def test_an_embedded_platform_ignores_the_stores_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "postgresql+psycopg://production/millrace")
    monkeypatch.setenv("MILLRACE_ONLINE_STORE", "redis")
    monkeypatch.setenv("MILLRACE_THREADS", "2")
    settings = embedded_in(tmp_path)
    assert (settings.database, settings.online_store) == (f"sqlite:///{tmp_path}/millrace.db", "sqlite")
    assert settings.threads == 2


def test_a_child_process_gets_exactly_these_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("MILLRACE_DATABASE_URL", "postgresql+psycopg://production/millrace")
    given = embedded_in(tmp_path).model_copy(
        update={"api_key": SecretStr("k" * 20), "port": 0, "trusted_hosts": ["a", "b"]}
    )
    child = child_environment(given)
    assert "MILLRACE_DATABASE_URL" not in child
    monkeypatch.delenv("MILLRACE_DATABASE_URL")
    for name, value in child.items():
        monkeypatch.setenv(name, value)
    assert read_settings() == given
