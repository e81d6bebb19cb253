"""`docker-compose.yml`: valid by the published schema, and every command, variable and dependency in it is real.

No Docker is needed: commands are looked up in this environment, whose packages are the image's. Each rule below yields
a line for each problem; the planted errors show that every rule sees what it is for.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml

from millrace.errors import SettingsError
from millrace.settings import Settings, read_settings

ROOT = Path(__file__).resolve().parents[2]
Compose = dict[str, Any]
IMAGE_TOOLS = {"postgres": {"pg_isready"}, "redis": {"redis-server", "redis-cli"}}
"""What the public images that we use bring, as far as the compose file calls it."""
SECRET = re.compile(r"(PASSWORD|_KEY|AUTH|AUTH_STRING)$")
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")


def load() -> Compose:
    parsed: Compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def services(compose: Compose) -> Iterator[tuple[str, Compose, dict[str, str]]]:
    for name, service in compose["services"].items():
        yield name, service, service.get("environment", {})


def breaks_the_schema(compose: Compose) -> Iterator[str]:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    for error in jsonschema.Draft202012Validator(schema).iter_errors(compose):
        yield f"{error.json_path}: {error.message}"


def names_an_unknown_setting(compose: Compose) -> Iterator[str]:
    for name, _, environment in services(compose):
        for variable in environment:
            if not _is_known(variable):
                yield f"{name}: {variable} is a setting of nothing"


def _is_known(variable: str) -> bool:
    if variable.startswith("MILLRACE_"):
        return variable.removeprefix("MILLRACE_").lower() in Settings.model_fields
    if variable.startswith("PREFECT_"):
        import prefect.settings

        return hasattr(prefect.settings, variable)
    if variable.startswith("MLFLOW_"):
        import mlflow.cli
        import mlflow.environment_variables

        options = {option.envvar for option in mlflow.cli.cli.commands["server"].params}
        return hasattr(mlflow.environment_variables, variable) or variable in options
    return variable in {"DO_NOT_TRACK", "REDISCLI_AUTH", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}


def gives_a_setting_a_wrong_value(compose: Compose) -> Iterator[str]:
    for name, _, environment in services(compose):
        for variable, value in environment.items():
            if variable.startswith("MILLRACE_") and _is_known(variable):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(variable, VARIABLE.sub("given", value))
                    try:
                        read_settings()
                    except SettingsError as error:
                        yield f"{name}: {error}"


def runs_an_unknown_command(compose: Compose) -> Iterator[str]:
    for name, service, _ in services(compose):
        if "command" in service:
            yield from (f"{name}: {problem}" for problem in _check_command(service, service["command"]))
        elif "build" in service:
            yield f"{name}: no command, where the image has none of its own"


def checks_health_with_an_unknown_command(compose: Compose) -> Iterator[str]:
    for name, service, _ in services(compose):
        kind, *command = service.get("healthcheck", {}).get("test", ["NONE"])
        if kind not in {"CMD", "CMD-SHELL"}:
            yield f"{name}: no health check"
            continue
        words = command[0].split() if kind == "CMD-SHELL" else command
        yield from (f"{name}: {problem}" for problem in _check_command(service, words))
        url = re.search(r"http://127\.0\.0\.1:(\d+)", " ".join(words))
        if url and url[1] != "8080" and f"--port={url[1]}" not in service["command"]:  # 8080: Prefect's worker
            yield f"{name}: nothing in it listens on port {url[1]}"


def _check_command(service: Compose, command: list[str]) -> Iterator[str]:
    executable, *arguments = command
    if "build" not in service:
        if executable not in IMAGE_TOOLS.get(service["image"].partition(":")[0], set()):
            yield f"{executable} is not in the image {service['image']}"
        return
    if not (Path(sys.prefix) / "bin" / executable).exists():
        yield f"{executable} is not an executable of the image"
    elif executable == "python":
        compile(arguments[arguments.index("-c") + 1], "<healthcheck>", "exec")
    else:
        words = tuple(word for word in arguments if not word.startswith("-"))
        options = _options(executable, words)
        if options is None:
            yield f"`{executable} {' '.join(words)}` is not a command"
        for option in (word.partition("=")[0] for word in arguments if word.startswith("-")):
            if options is not None and option not in options:
                yield f"`{executable} {' '.join(words)}` has no option {option}"


@functools.cache
def _options(executable: str, words: tuple[str, ...]) -> frozenset[str] | None:
    """The options that a command takes, or None when there is no such command."""
    if executable == "prefect":
        return _prefect_options(words)
    command = _click_command(executable)
    for word in words:
        if hasattr(command, "commands"):
            command = command.commands.get(word)
    if command is None or hasattr(command, "commands"):
        return None
    return frozenset(option for parameter in command.params for option in parameter.opts)


def _click_command(executable: str) -> Any:
    if executable == "mlflow":
        import mlflow.cli

        return mlflow.cli.cli
    import typer.main

    import millrace.cli

    return typer.main.get_command(millrace.cli.app)


def _prefect_options(words: tuple[str, ...]) -> frozenset[str] | None:
    """Prefect's command line is no click object in every 3.x: its own help says what it takes."""
    command = [str(Path(sys.prefix) / "bin/prefect"), *words, "--help"]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return frozenset(re.findall(r"(?<![\w-])--[a-z-]+", result.stdout)) if result.returncode == 0 else None


def waits_for_health_that_nobody_checks(compose: Compose) -> Iterator[str]:
    for name, service, _ in services(compose):
        for needed, how in service.get("depends_on", {}).items():
            if needed not in compose["services"]:
                yield f"{name} waits for {needed}, which is no service"
            elif how["condition"] == "service_healthy" and "healthcheck" not in compose["services"][needed]:
                yield f"{name} waits for {needed} to be healthy, which nothing checks"


def writes_a_database_url_short(compose: Compose) -> Iterator[str]:
    for name, _, environment in services(compose):
        for variable, value in environment.items():
            driver = "asyncpg" if variable.startswith("PREFECT_") else "psycopg"
            if value.startswith("postgres") and not value.startswith(f"postgresql+{driver}://"):
                yield f"{name}: {variable} must begin with postgresql+{driver}://"


def carries_a_secret(compose: Compose) -> Iterator[str]:
    for name, service, environment in services(compose):
        for variable, value in environment.items():
            inside_url = re.search(r"://[^/@]*:([^/@]*(?:\{[^}]*\})?)@", value)
            secret = inside_url[1] if inside_url else value if SECRET.search(variable) else ""
            if secret and not re.fullmatch(r"\$\{\w+:\?[^}]+\}", secret):
                yield f"{name}: {variable} carries a secret; ask for it with ${{NAME:?where to get it}}"
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name}: port {port} is open to other machines"


def asks_for_a_variable_that_the_example_lacks(compose: Compose) -> Iterator[str]:
    example = (ROOT / "infra/stack.env.example").read_text()
    listed = set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    asked = {match[1] for match in VARIABLE.finditer(yaml.safe_dump(compose, width=10_000))}
    yield from (f"{name} is asked for, but not in infra/stack.env.example" for name in sorted(asked - listed))
    yield from (f"{name} is in infra/stack.env.example, but not asked for" for name in sorted(listed - asked))


def mounts_what_is_not_there(compose: Compose) -> Iterator[str]:
    for name, service, _ in services(compose):
        for source in (mount.partition(":")[0] for mount in service.get("volumes", [])):
            known = (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]
            if not known:
                yield f"{name} mounts {source}, which does not exist"


Rule = Callable[[Compose], Iterator[str]]
RULES: tuple[Rule, ...] = (
    breaks_the_schema,
    names_an_unknown_setting,
    gives_a_setting_a_wrong_value,
    runs_an_unknown_command,
    checks_health_with_an_unknown_command,
    waits_for_health_that_nobody_checks,
    writes_a_database_url_short,
    carries_a_secret,
    asks_for_a_variable_that_the_example_lacks,
    mounts_what_is_not_there,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_compose_file_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(load())) == []


PLANTED: tuple[tuple[Rule, tuple[str, ...], Any], ...] = (
    (breaks_the_schema, ("services", "api", "comand"), ["millrace"]),
    (breaks_the_schema, ("services", "api", "healthcheck", "test"), 5),
    (names_an_unknown_setting, ("services", "api", "environment", "MILLRACE_DATABSE_URL"), "x"),
    (names_an_unknown_setting, ("services", "worker", "environment", "PREFECT_API_ADDRESS"), "x"),
    (names_an_unknown_setting, ("services", "mlflow", "environment", "MLFLOW_BACKEND_URI"), "x"),
    (gives_a_setting_a_wrong_value, ("services", "api", "environment", "MILLRACE_ONLINE_STORE"), "memcached"),
    (gives_a_setting_a_wrong_value, ("services", "api", "environment", "MILLRACE_TRUSTED_HOSTS"), "api"),
    (runs_an_unknown_command, ("services", "api", "command"), ["milrace", "serve", "flight_delay"]),
    (runs_an_unknown_command, ("services", "api", "command"), ["millrace", "server", "flight_delay"]),
    (runs_an_unknown_command, ("services", "worker", "command"), ["prefect", "worker", "strat"]),
    (runs_an_unknown_command, ("services", "mlflow", "command"), ["mlflow", "server", "--worker=1"]),
    (runs_an_unknown_command, ("services", "redis", "command"), ["valkey-server"]),
    (checks_health_with_an_unknown_command, ("services", "mlflow", "healthcheck", "test"), ["CMD", "curl", "-f", "x"]),
    (checks_health_with_an_unknown_command, ("services", "api", "command"), ["millrace", "serve", "--port=9000"]),
    (waits_for_health_that_nobody_checks, ("services", "redis", "healthcheck"), None),
    (waits_for_health_that_nobody_checks, ("services", "api", "depends_on", "db"), {"condition": "service_started"}),
    (writes_a_database_url_short, ("services", "api", "environment", "MILLRACE_DATABASE_URL"), "postgresql://p/x"),
    (
        writes_a_database_url_short,
        ("services", "prefect", "environment", "PREFECT_SERVER_DATABASE_CONNECTION_URL"),
        "postgresql+psycopg://p/x",
    ),
    (carries_a_secret, ("services", "api", "environment", "MILLRACE_API_KEY"), "${MILLRACE_API_KEY:-letmein}"),
    (carries_a_secret, ("services", "api", "environment", "MILLRACE_REDIS_URL"), "redis://:letmein@redis:6379/0"),
    (carries_a_secret, ("services", "mlflow", "ports"), ["5000:5000"]),
    (asks_for_a_variable_that_the_example_lacks, ("services", "redis", "environment", "REDISCLI_AUTH"), "${REDIS:?x}"),
    (mounts_what_is_not_there, ("services", "api", "volumes"), ["state:/var/lib/millrace"]),
    (mounts_what_is_not_there, ("services", "postgres", "volumes"), ["./infra/postgres/tables.sql:/x:ro"]),
)


@pytest.mark.parametrize(("rule", "place", "value"), PLANTED)
def test_planted_error_is_found(rule: Rule, place: tuple[str, ...], value: Any) -> None:
    compose = copy.deepcopy(load())
    *parents, last = place
    target = functools.reduce(lambda level, key: level[key], parents, compose)
    if value is None:
        del target[last]
    else:
        target[last] = value
    assert list(rule(compose)) != []
