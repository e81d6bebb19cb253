"""Loading a use case: what works, and what each broken folder is told."""

import sys
from pathlib import Path

import pytest

from millrace.errors import UseCaseError
from millrace.loader import load_use_case, names
from millrace.settings import Settings

GOOD = """
from datetime import timedelta
from millrace import Candidate, FeatureTable, Label, Population, Source, UseCase
from .rows import read

trips = Source("trips", read=read, schema=lambda: None, key=("trip",))
use_case = UseCase(
    name="taxi", question="Will it be late?", sources=(trips,), population=Population(trips),
    label=Label(trips, "late", timedelta(hours=1)),
    feature_tables=(FeatureTable("recent", build=lambda tables: tables["trips"], reads=(trips,), entity=("zone",)),),
    feature_repo=lambda source: [], candidates=(Candidate("gbm", build=lambda inputs: None),),
)
"""


@pytest.fixture
def platform(tmp_path):
    def write(code: str = GOOD, name: str = "taxi") -> Settings:
        folder = tmp_path / "cases" / name
        folder.mkdir(parents=True)
        (folder / "use_case.py").write_text(code)
        (folder / "rows.py").write_text("def read(since, until):\n    return None\n")
        return Settings(home=tmp_path, use_cases=tmp_path / "cases")

    return write


def test_a_use_case_is_found_by_its_name(platform):
    assert load_use_case("taxi", platform()).question == "Will it be late?"


def test_a_use_case_is_found_by_its_folder(platform):
    settings = platform()
    assert load_use_case(str(settings.use_cases / "taxi"), settings).name == "taxi"


def test_the_search_path_stays_untouched(platform):
    settings, before = platform(), list(sys.path)
    load_use_case("taxi", settings)
    assert sys.path == before


def test_the_same_name_in_another_folder_is_another_use_case(platform, tmp_path):
    load_use_case("taxi", platform())
    other = tmp_path / "other" / "taxi"
    other.mkdir(parents=True)
    (other / "use_case.py").write_text(GOOD.replace("Will it be late?", "Another?"))
    (other / "rows.py").write_text("def read(since, until):\n    return None\n")
    assert load_use_case(str(other), Settings(home=tmp_path)).question == "Another?"


def test_loading_the_example_imports_no_heavy_library():
    import subprocess

    code = (
        "import sys; from millrace.loader import load_use_case; from millrace.settings import Settings; "
        "load_use_case('flight_delay', Settings()); "
        "print([m for m in ('feast', 'torch', 'sklearn', 'mlflow', 'pandas', 'evidently') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_lists_the_known_ones(platform):
    with pytest.raises(UseCaseError, match=r"no use case 'texi'.*holds taxi"):
        load_use_case("texi", platform())


def test_a_folder_without_the_entry_file_is_told_what_to_write(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UseCaseError, match=r"has no use_case.py.*holds nothing.*Write"):
        load_use_case(str(tmp_path / "empty"), Settings(home=tmp_path))


def test_code_that_raises_is_named_with_its_line(platform):
    with pytest.raises(UseCaseError, match=r"ZeroDivisionError.*use_case.py:2"):
        load_use_case("taxi", platform("\n1 / 0\n"))


def test_a_syntax_error_is_named(platform):
    with pytest.raises(UseCaseError, match="SyntaxError"):
        load_use_case("taxi", platform("use_case = UseCase(\n"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1", "defines no use case.*absent"),
        ("use_case = {}", "defines no use case.*a dict"),
        (GOOD.replace('name="taxi"', 'name="bus"'), "calls itself 'bus'"),
        (GOOD.replace('name="taxi"', 'name="Taxi!"'), "lower-case"),
        (GOOD.replace("population=Population(trips)", "population=trips"), "population must be Population"),
        (GOOD.replace("sources=(trips,)", "sources=()"), "uses the source trips.*not among"),
        (GOOD.replace("sources=(trips,)", "sources=trips"), "sources must be tuple"),
        (GOOD.replace('candidates=(Candidate("gbm", build=lambda inputs: None),)', "candidates=()"), "no candidates"),
        (GOOD.replace("build=lambda inputs: None", "build=None"), "build must be a function"),
        (GOOD.replace('key=("trip",)', "key=()"), "key must name"),
        (GOOD.replace("feature_repo=lambda source: [],", ""), "feature_repo"),
    ],
)
def test_a_missing_part_or_wrong_type_is_one_clear_error(platform, code, message):
    with pytest.raises(UseCaseError, match=message):
        load_use_case("taxi", platform(code))


def test_names_lists_the_use_cases_of_the_settings_folder(platform):
    assert names(platform()) == ["taxi"]
