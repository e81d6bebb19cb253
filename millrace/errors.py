"""Every error Millrace raises on purpose, in one tree.

    MillraceError                what went wrong, where we looked, what to type next
    ├── UseCaseError             a use-case folder has a missing part or a wrong type
    ├── SettingsError            a setting has an impossible value
    ├── SourceError              a source file is missing, malformed or breaks its schema
    ├── LakeError                a table or a version of it does not exist
    ├── NoDataError              nothing was known yet at the moment asked for
    ├── FeatureError             a feature view, table or store cannot answer
    ├── TrainingError            a candidate cannot be fitted, exported or measured
    ├── BundleError              a model bundle is damaged, unsigned or not ours
    ├── MlflowError              MLflow does not answer, or not as it should
    ├── NoChampionError          no model serves this use case yet
    ├── GateError                a model that failed its budget was to be promoted
    ├── ApiKeyError              an API key cannot be made, or there is none of this name
    ├── ScoreJobError            a batch scoring job cannot be understood, started or finished
    ├── BusyError                another process holds what this one needs
    ├── ClusterError             Ray is not installed, or its cluster does not answer
    └── RequestError             a prediction request is wrong (carries an HTTP status and the field)

They are raised early and caught at the edges: the command line prints one paragraph and exits with `exit_code`; the
server answers with its one JSON error shape.
"""

from __future__ import annotations

from collections.abc import Mapping


class MillraceError(Exception):
    """Base of the tree.

    `what` says what is wrong, `looked` where we looked and what we found there, `todo` what to type next.
    """

    exit_code = 1

    def __init__(self, what: str, *, looked: str = "", todo: str = "") -> None:
        self.what, self.looked, self.todo = what, looked, todo
        super().__init__(" ".join(part for part in (what, looked, todo) if part))


class UseCaseError(MillraceError):
    exit_code = 2


class SettingsError(MillraceError):
    exit_code = 2


class SourceError(MillraceError):
    exit_code = 3


class LakeError(MillraceError):
    exit_code = 4


class NoDataError(MillraceError):
    exit_code = 4


class FeatureError(MillraceError):
    exit_code = 5


class TrainingError(MillraceError):
    exit_code = 6


class BundleError(MillraceError):
    exit_code = 7


class MlflowError(MillraceError):
    exit_code = 1


class NoChampionError(MillraceError):
    exit_code = 7


class GateError(MillraceError):
    exit_code = 8


class ApiKeyError(MillraceError):
    exit_code = 2


class ScoreJobError(MillraceError):
    exit_code = 11


class BusyError(MillraceError):
    exit_code = 9


class ClusterError(MillraceError):
    exit_code = 1


class RequestError(MillraceError):
    """A request that cannot be answered as asked; `field` names the offending input, never its value.

    `retry_after` is after how many seconds the same request may be answered, 0 where that is no question of time.
    """

    def __init__(
        self, status: int, what: str, *, field: str = "", looked: str = "", todo: str = "", retry_after: int = 0
    ) -> None:
        self.status, self.field, self.retry_after = status, field, retry_after
        super().__init__(what, looked=looked, todo=todo)


def error_to_dict(error: MillraceError) -> dict[str, str]:
    """What another process needs to raise it again, JSON-able; the shape of `--json`'s errors."""
    return {"error": type(error).__name__, "what": error.what, "looked": error.looked, "todo": error.todo}


def error_from_dict(told: Mapping[str, str]) -> MillraceError | None:
    """The inverse of `error_to_dict`; None of what is none of ours (and of a request's, whose status is not told)."""
    kind = globals().get(told.get("error", ""))
    if not (isinstance(kind, type) and issubclass(kind, MillraceError)) or kind is RequestError:
        return None
    return kind(told["what"], looked=told["looked"], todo=told["todo"])


def first_line(error: BaseException) -> str:
    """What an exception of somebody else's says in one line, without its final stop: `ValueError: no such column`.

    Others' messages run over many lines (a query plan, a list of candidates); ours are one paragraph.
    """
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0].rstrip('.')}" if said else type(error).__name__
