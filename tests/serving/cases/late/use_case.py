"""Will it be late? A use case that serving needs the name, the question and the population's key of."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from millrace import Candidate, FeatureTable, Label, Population, Source, UseCase


def nothing(since: datetime, until: datetime) -> pl.DataFrame:
    """No rows: nothing is ingested here."""
    return pl.DataFrame()


def hour(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The on-demand function of the plan: far is the distance / 1,000."""
    return {"far": [None if distance is None else distance / 1_000 for distance in columns["distance"]]}


trips = Source("trips", nothing, lambda: None, ("carrier", "trip"))
use_case = UseCase(
    name="late",
    question="Will it be late?",
    sources=(trips,),
    population=Population(trips),
    label=Label(trips, "late", timedelta(hours=6)),
    feature_tables=(FeatureTable("carrier_recent", lambda tables: tables["trips"], (trips,), ("carrier",)),),
    feature_repo=lambda of: [],
    on_demand=(hour,),
    candidates=(Candidate("logistic", lambda inputs: None),),
)
