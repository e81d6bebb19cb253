"""What a model costs to serve: latency, resident memory, cold start, size, energy. Measured, not estimated.

Each bundle is measured in fresh processes of its own, through the scorer that will serve it: checked rows → contract →
engine → answer. The parts: `process` starts those processes and hears them, `child` is what runs in one, `timing`,
`machine` and `energy` read the clock, the system and the meter, `cost` is what comes out. The figures are judged
elsewhere (training's gate); this package knows nothing of budgets, and nothing of HTTP, the feature store or the
prediction log, whose share of a request is the same for every model.
"""

from serving.measure.cost import Cost
from serving.measure.process import measure

__all__ = ["Cost", "measure"]
