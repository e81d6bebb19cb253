"""The platform's database: the same facts on SQLite and on PostgreSQL."""

from datetime import UTC, datetime, timedelta, timezone
from multiprocessing import get_context

import pytest

from millrace.db import AuditRow, Database, KeyRow, ModelRow, WindowRow
from millrace.errors import BusyError, MillraceError, SettingsError
from millrace.settings import Settings

T0 = datetime(2013, 4, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def db(request, tmp_path):
    url = "" if request.param == "sqlite" else request.getfixturevalue("needs_postgres")
    database = Database.open(Settings(home=tmp_path, database_url=url))
    yield database
    database.close()


def model(version: int, status: str = "challenger") -> ModelRow:
    return ModelRow("flights", version, "gbm", "run", "bundle", "digest", T0, T0, status)


def test_there_is_no_champion_before_a_promotion(db):
    db.add_model(model(1))
    assert db.champion("flights") is None


def test_promotion_retires_the_old_champion_and_is_recorded(db):
    db.add_model(model(1))
    db.add_model(model(2))
    db.set_champion("flights", 1, as_of=T0, reason="first")
    db.set_champion("flights", 2, as_of=T0 + timedelta(days=7), reason="better")
    assert db.champion("flights").version == 2
    assert db.model("flights", 1).status == "retired"
    assert db.champions("flights") == [(T0, 1), (T0 + timedelta(days=7), 2)]
    assert [decision.reason for decision in db.decisions("flights")] == ["first", "better"]


def test_the_end_of_a_very_long_reason_gives_way(db):
    db.add_model(model(1))
    db.set_champion("flights", 1, as_of=T0, reason="a" * 10_000)
    assert db.decisions("flights")[0].reason == "a" * 4_094 + " …"


def test_promoting_an_unknown_version_changes_nothing(db):
    db.add_model(model(1))
    db.set_champion("flights", 1, as_of=T0, reason="first")
    with pytest.raises(MillraceError, match="no version 9"):
        db.set_champion("flights", 9, as_of=T0, reason="typo")
    assert db.champion("flights").version == 1
    assert len(db.decisions("flights")) == 1


def test_times_come_back_as_utc_instants_whatever_zone_they_went_in(db):
    in_paris = datetime(2013, 4, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    db.add_decision("flights", as_of=in_paris, action="a", reason="r")
    assert db.decisions("flights")[0].as_of == T0
    assert db.decisions("flights")[0].as_of.utcoffset() == timedelta(0)


def test_a_time_without_a_zone_is_refused(db):
    with pytest.raises(Exception, match="zone"):
        db.add_decision("flights", as_of=datetime(2013, 4, 1), action="a", reason="r")  # noqa: DTZ001  # the point


def test_a_window_watched_again_replaces_the_first_result(db):
    for action in ("nothing", "retrain"):
        db.add_window(WindowRow("flights", T0, T0 + timedelta(days=7), 1, 10, 9, action, "r", T0))
    assert [window.action for window in db.windows("flights")] == ["retrain"]


def test_a_run_is_running_until_it_ends(db):
    run = db.start_run("flights", "ingest", T0)
    assert db.runs("flights")[0].state == "running"
    db.end_run(run, "done", {"rows": 3})
    assert (db.runs("flights", "ingest")[0].state, db.runs("flights")[0].detail) == ("done", {"rows": 3})
    assert db.use_cases() == ["flights"]


def test_versions_count_up_per_use_case(db):
    assert db.next_version("flights") == 1
    db.add_model(model(4))
    assert (db.next_version("flights"), db.next_version("digits")) == (5, 1)


def test_a_lease_is_held_by_one_at_a_time_and_free_afterwards(db):
    with db.lease("demo"), pytest.raises(BusyError, match="already"), db.lease("demo"):
        pass
    with db.lease("demo"):
        pass


def _die_holding(home) -> None:
    database = Database.open(Settings(home=home))
    database.lease("demo").__enter__()
    import os

    os._exit(1)


def test_the_lease_of_a_dead_process_is_taken_over(tmp_path):
    process = get_context("spawn").Process(target=_die_holding, args=(tmp_path,))
    process.start()
    process.join(60)
    with Database.open(Settings(home=tmp_path)).lease("demo"):
        pass


def test_many_writers_at_once_all_get_their_turn(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    database = Database.open(Settings(home=tmp_path))
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: database.start_run("flights", "ingest", T0), range(80)))
    assert len(set(runs)) == 80


def test_the_schema_can_be_taken_down_and_built_again(tmp_path):
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from millrace.db.models import Base
    from millrace.db.session import MIGRATIONS

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with create_engine(f"sqlite:///{tmp_path / 'm.db'}").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        from alembic.autogenerate import compare_metadata

        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        command.downgrade(config, "base")
        command.upgrade(config, "head")


@pytest.mark.parametrize("url", ["nonsense", "postgresql+psycopg://nobody@127.0.0.1:1/none"])
def test_a_database_that_cannot_be_opened_is_one_clear_error(tmp_path, url):
    with pytest.raises(SettingsError, match="MILLRACE_DATABASE_URL"):
        Database.open(Settings(home=tmp_path, database_url=url))


def test_a_database_of_the_first_migration_keeps_its_rows_and_takes_keys(tmp_path):
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine

    from millrace.db.session import MIGRATIONS

    config, settings = Config(), Settings(home=tmp_path)
    config.set_main_option("script_location", str(MIGRATIONS))
    with create_engine(settings.database).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO leases VALUES ('demo', 'x', 'host', 1, '2013-04-01 00:00:00')")
    database = Database.open(settings)
    assert database.add_key(key("shop"), audit("create"))
    with database.lease("demo"):
        pass


def key(name: str) -> KeyRow:
    return KeyRow(f"id of {name}", name, "digest", ["predict"], T0)


def audit(method: str, at: datetime = T0) -> AuditRow:
    return AuditRow(at, "id", "shop", method, "route", "127.0.0.1", 200, "request")


def test_keys_come_back_by_name_with_all_they_have(db):
    assert all(db.add_key(key(name), audit("create")) for name in ("web", "app"))
    app, web = db.api_keys()
    assert (app.name, web.name) == ("app", "web")
    assert (app.scopes, app.created_at, app.expires_at, app.revoked_at, app.concurrency) == (
        ["predict"], T0, None, None, None,
    )  # fmt: skip


def test_a_key_whose_name_is_taken_is_not_written_nor_is_its_audit(db):
    assert db.add_key(key("shop"), audit("create"))
    other = KeyRow("another id", "shop", "digest", ["predict"], T0)
    assert not db.add_key(other, audit("create"))
    assert (len(db.api_keys()), len(db.audit(10))) == (1, 1)


def test_a_change_of_a_key_that_fails_changes_nothing(db):
    db.add_key(key("shop"), audit("create"))

    def change(row: KeyRow) -> AuditRow:
        row.revoked_at = T0
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        db.change_key("shop", change)
    assert (db.api_keys()[0].revoked_at, len(db.audit(10))) == (None, 1)


def test_changing_a_key_that_is_not_there_is_none(db):
    assert db.change_key("shop", lambda row: audit("revoke")) is None
    assert db.audit(10) == []


def test_the_audit_is_read_from_its_newest_row(db):
    db.add_audit([audit("POST", T0 + timedelta(hours=hour)) for hour in (2, 0, 1)])
    assert [row.at for row in db.audit(2)] == [T0 + timedelta(hours=2), T0 + timedelta(hours=1)]
