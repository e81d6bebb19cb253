"""Will a flight from New York be late? The whole use case: what to read, predict, try, demand and watch."""

from datetime import timedelta

from millrace import Budget, Candidate, Label, Population, Retrain, TorchCandidate, UseCase, at_least, at_most

from .features import VIEWS, feature_repo, flight_facts
from .models import embedding_net, hist_gbm, logistic
from .sources import departures, flights, planes, schedule, weather

boosting = {"max_iter": (300, 500), "learning_rate": (0.05, 0.03), "max_leaf_nodes": (15, 31)}

use_case = UseCase(
    name="flight_delay",
    question="Will this flight land more than 15 minutes late? Asked two hours before departure.",
    sources=(schedule, departures, flights, weather, planes),
    population=Population(schedule, lead=timedelta(hours=2)),
    label=Label(flights, column="late", arrives_after=timedelta(hours=6)),
    feature_tables=tuple(VIEWS),
    feature_repo=feature_repo,
    on_demand=(flight_facts,),
    baseline=Candidate("logistic", logistic),
    candidates=(Candidate("hist_gbm", hist_gbm, boosting), TorchCandidate("embedding_net", embedding_net)),
    budget=Budget(at_least(roc_auc=0.62), at_most(p99_ms=10, memory_mb=100, bundle_mb=20)),
    slices=("carrier", "origin"),
    retrain=Retrain(timedelta(days=7), max_per_month=4, max_growth=0.1, max_surprise=0.12, max_age=timedelta(days=42)),
)
