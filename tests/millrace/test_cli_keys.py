"""`millrace keys …`: a key is shown once, errors name the way out, and machines read JSON."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from millrace.api_keys import digest_of
from millrace.cli import main
from millrace.db import Database
from millrace.settings import Settings, read_settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    return read_settings()


def keys(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        main(["keys", *arguments])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, _ = keys(capsys, *arguments, "--json")
    assert code == 0
    shown: dict[str, Any] = json.loads(out)
    return shown


def test_a_made_key_is_shown_and_its_digest_kept(home: Settings, capsys):
    limits = ("--requests-per-second", "5", "--rows-per-second", "50", "--concurrency", "2")
    made = as_json(capsys, "create", "shop", "--scope", "label", "--scope", "predict", "--expires", "90d", *limits)
    row = Database.open(home).api_keys()[0]
    assert row.digest == digest_of(made["key"])
    assert made["scopes"] == ["predict", "label"]
    assert (made["requests_per_second"], made["rows_per_second"], made["concurrency"]) == (5, 50, 2)
    assert (row.expires_at - row.created_at).days == 90


def test_the_list_shows_no_key(capsys):
    made = as_json(capsys, "create", "shop")
    shown = as_json(capsys, "list")["keys"]
    assert [(key["name"], key["id"], key["state"], key["scopes"]) for key in shown] == [
        ("shop", made["id"], "active", ["predict"])
    ]
    assert made["key"].split("_")[2] not in json.dumps(shown)


def test_people_are_told_that_the_key_is_shown_once(capsys):
    code, out, _ = keys(capsys, "create", "shop")
    assert code == 0
    assert "shown this once" in out


def test_an_empty_list_is_no_error(capsys):
    assert keys(capsys, "list")[0] == 0
    assert as_json(capsys, "list") == {"keys": []}
    assert as_json(capsys, "audit") == {"audit": []}


def test_a_rotated_key_has_a_new_secret_and_a_grace_of_a_day(capsys):
    first, second = as_json(capsys, "create", "shop"), as_json(capsys, "rotate", "shop")
    assert second["id"] == first["id"]
    assert second["key"] != first["key"]
    assert "old_secret_until" in second
    assert "old_secret_until" not in as_json(capsys, "rotate", "shop", "--grace", "0s")


def test_a_revoked_key_says_so(capsys):
    as_json(capsys, "create", "shop")
    assert as_json(capsys, "revoke", "shop")["state"] == "revoked"
    assert as_json(capsys, "list")["keys"][0]["state"] == "revoked"


def test_the_audit_names_the_operating_systems_user(capsys):
    as_json(capsys, "create", "shop")
    as_json(capsys, "revoke", "shop")
    rows = as_json(capsys, "audit", "--limit", "1")["audit"]
    user = pwd.getpwuid(os.getuid()).pw_name
    assert [(row["method"], row["key_name"], row["remote"]) for row in rows] == [("keys revoke", "shop", user)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("revoke", "nobody"), "The keys are shop"),
        (("rotate", "nobody"), "millrace keys list"),
        (("create", "shop"), "already a key named shop"),
        (("create", "x", "--scope", "root"), "predict, label, admin"),
        (("create", "a b"), "A key's name"),
        (("create", "x", "--expires", "soon"), "90d, 24h"),
        (("create", "x", "--expires", "9999999999w"), "90d, 24h"),
        (("create", "x", "--expires", "0d"), "--expires 90d"),
        (("rotate", "shop", "--grace", "-1d"), "90d, 24h"),
        (("create", "x", "--rows-per-second", "-1"), "--rows-per-second"),
        (("create", "x", "--concurrency", "99999999999"), "--concurrency"),
        (("create", "x", "--requests-per-second", "1.5"), "--requests-per-second"),
        (("audit", "--limit", "0"), "--limit"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(capsys, arguments, says):
    as_json(capsys, "create", "shop")
    code, _, err = keys(capsys, *arguments)
    assert (code, says in " ".join(err.split())) == (2, True), err
    assert "Traceback" not in err
    assert len(as_json(capsys, "list")["keys"]) == 1


def test_an_error_is_json_for_machines(capsys):
    code, _, err = keys(capsys, "revoke", "nobody", "--json")
    assert code == 2
    assert json.loads(err)["error"] == "ApiKeyError"
