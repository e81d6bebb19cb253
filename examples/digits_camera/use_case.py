"""Which digit does the camera see? The classic exercise of machine-learning systems: an accuracy of 98 %, one image in
10 ms, in 100 MB. It is not how accurate a model can be, but which one is the cheapest that is accurate enough.

The image comes with the request as an array of 64 values: there is no feature store. To do: tighten the budget
(`millrace train digits_camera --budget memory_mb=…,p99_ms=…`) until the choice changes, and until nothing passes.
"""

from datetime import timedelta

from millrace import Budget, Candidate, Label, Population, Training, UseCase, at_least, at_most

from .models import logistic, network
from .sources import CLASSES, READ_AFTER, digits, images

use_case = UseCase(
    name="digits_camera",
    question="Which digit, 0 to 9, is on this image of 8 × 8 grey values from 0 to 16?",
    sources=(images, digits),
    population=Population(images),
    label=Label(digits, column="digit", arrives_after=READ_AFTER, classes=CLASSES),
    request_features=("image",),
    baseline=Candidate("logistic", logistic),
    candidates=(network,),
    budget=Budget(at_least(accuracy=0.98), at_most(p99_ms=10, memory_mb=100), prefer="cheapest"),
    training=Training(history=timedelta(days=36_500), holdout=timedelta(minutes=450)),
)
