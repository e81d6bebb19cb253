"""Folder → UseCase: finds a use case by name or path, imports it, and says what to write when it cannot.

The folder is imported as a package of its own name (`millrace_use_case_<folder>`): its modules import each other
relatively (`from .features import …`), two use cases may both have a `features.py`, and `sys.path` stays untouched.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

from millrace.errors import MillraceError, UseCaseError, first_line
from millrace.settings import Settings
from millrace.usecase import UseCase

ENTRY = "use_case.py"
"""The file of a use-case folder that defines `use_case = UseCase(…)`."""


def load_use_case(name: str, settings: Settings) -> UseCase:
    """The use case of this name (a folder in `settings.use_cases`) or in this folder.

    Raises `UseCaseError` when there is no such folder, it lacks `use_case.py`, its code raises, or what it defines is
    not a `UseCase`.
    """
    folder = find_folder(name, settings)
    package = f"millrace_use_case_{folder.name}"
    try:
        module = _import_package(package, folder)
    except MillraceError:
        raise
    except Exception as error:
        raise UseCaseError(
            f"The use case in {folder} cannot be imported: {first_line(error)}.",
            looked=f"It was raised at {_where(error, folder)}.",
            todo=f"Try it alone: python -c \"import runpy; runpy.run_path('{folder / ENTRY}')\" shows the same line.",
        ) from error
    found = getattr(module, "use_case", None)
    if not isinstance(found, UseCase):
        raise UseCaseError(
            f"{folder / ENTRY} defines no use case.",
            looked=f"`use_case` is {'absent' if found is None else 'a ' + type(found).__name__}.",
            todo="End the file with: use_case = UseCase(name=…, question=…, …).",
        )
    if found.name != folder.name:
        raise UseCaseError(
            f"The use case in the folder {folder.name!r} calls itself {found.name!r}.",
            todo="Give both the same name: commands find a use case by its folder, its models carry its name.",
        )
    return found


def find_folder(name: str, settings: Settings) -> Path:
    """The absolute folder of a use case given by name or by path; `UseCaseError` lists what there is instead."""
    places = [settings.use_cases / name, Path(name)]
    for place in places:
        if (place / ENTRY).is_file():
            return place.resolve()
    folder = next((place for place in places if place.is_dir()), None)
    if folder is not None:
        raise UseCaseError(
            f"The folder {folder} is not a use case: it has no {ENTRY}.",
            looked=f"It holds {', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}.",
            todo=f"Write {folder / ENTRY} (docs/your-use-case.md), or start from one: "
            f"cp -r examples/flight_delay {folder}.",
        )
    known = names(settings)
    raise UseCaseError(
        f"There is no use case {name!r}.",
        looked=f"Looked for {places[0] / ENTRY} and {places[1] / ENTRY}; {settings.use_cases} holds "
        f"{', '.join(known) if known else 'no use case'}.",
        todo="Type one of these names or a folder's path, or start one: "
        f"cp -r examples/flight_delay {settings.use_cases}/{name}.",
    )


def names(settings: Settings) -> list[str]:
    """The names of the use cases in `settings.use_cases`, sorted."""
    return sorted(path.parent.name for path in settings.use_cases.glob(f"*/{ENTRY}"))


def _import_package(package: str, folder: Path) -> object:
    """Import `folder` as `package` and its entry file in it; a package already imported from there is used again."""
    entry = f"{package}.{Path(ENTRY).stem}"
    loaded = sys.modules.get(entry)
    if loaded is not None and loaded.__file__ == str(folder / ENTRY):
        return loaded
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
    spec = ModuleSpec(package, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(entry)


def _where(error: BaseException, folder: Path) -> str:
    """The last line of the use case's own code that the error passed through, as `file:line`."""
    place, trace = str(folder / ENTRY), error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(str(folder)):
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
