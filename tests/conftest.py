"""What every test gets: no way out of the machine, quiet vendors, settings in a folder of its own, and, where they run,
a PostgreSQL database or a Redis prefix that nobody else uses.

`TEST_POSTGRES_URL` and `TEST_REDIS_URL` name other servers than the ones on this machine's standard ports; with
`TEST_REQUIRE_SERVICES=1` a missing one fails instead of skipping.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

sys.path.insert(0, str(Path(__file__).parent / "offline"))

import blocked_sockets

from millrace.settings import Settings, quiet_vendors, read_settings

ROOT = Path(__file__).resolve().parent.parent
_WORKER = "PYTEST_XDIST_WORKER" in os.environ  # one of several processes, whose attempts the first one reads
_FOLDER = Path(os.environ[blocked_sockets.LOG_VARIABLE]).parent if _WORKER else Path(tempfile.mkdtemp(prefix="tests-"))
_LOG = _FOLDER / "attempts.jsonl"

hypothesis_settings.register_profile(
    "millrace", deadline=None, max_examples=50, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("millrace")


def pytest_configure() -> None:
    """Before anything of ours or a vendor's is imported by a test."""
    for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
        del os.environ[name]
    os.environ["MILLRACE_MEASURE_SECONDS"] = "0.5"  # what a model costs is no test's question
    quiet_vendors()
    os.environ.update(blocked_sockets.environment(_LOG, os.environ))
    blocked_sockets.install(_LOG)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """An attempt that a vendor swallowed fails the run: it belongs to no single test, as threads make it."""
    found = [] if _WORKER else blocked_sockets.attempts(_LOG)
    if not found:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for attempt in found[:10]:
        if reporter is not None:
            reporter.write_line(f"\noutbound attempt: {attempt.call} {attempt.address} by {attempt.process}", red=True)
            reporter.write_line("\n".join(f"  {frame}" for frame in attempt.frames[-8:]))
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The embedded platform in a folder of this test's own; use cases are looked up in `examples/`."""
    return read_settings(home=tmp_path / "millrace", use_cases=ROOT / "examples")


@pytest.fixture
def needs_postgres() -> Iterator[str]:
    """The URL (`postgresql+psycopg://…`) of an empty database of this test's own, dropped after it."""
    import psycopg
    from psycopg import conninfo, sql

    server = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
    try:
        connection = psycopg.connect(server, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        _missing("PostgreSQL", server, error)
    name = f"millrace_test_{secrets.token_hex(6)}"
    with connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    given = conninfo.conninfo_to_dict(server)
    password = f":{given['password']}" if given.get("password") else ""
    yield f"postgresql+psycopg://{given['user']}{password}@{given['host']}:{given.get('port', 5432)}/{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def needs_redis(settings: Settings) -> Iterator[Settings]:
    """`settings` with the online store on Redis, under a key prefix of this test's own; its keys go after it."""
    import redis

    url = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
    client = redis.Redis.from_url(url, socket_connect_timeout=3)
    try:
        client.ping()
    except redis.ConnectionError as error:
        _missing("Redis", url, error)
    prefix = f"millrace-test-{secrets.token_hex(6)}"
    yield settings.model_copy(update={"online_store": "redis", "redis_url": url, "redis_prefix": prefix})
    for key in client.scan_iter(match=f"{prefix}*"):
        client.delete(key)
    client.close()


def _missing(service: str, url: str, error: Exception) -> None:
    reason = f"{service} does not answer at {url}: {error}".strip()
    if os.environ.get("TEST_REQUIRE_SERVICES"):
        pytest.fail(reason)
    pytest.skip(reason)
