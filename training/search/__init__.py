"""The search for a candidate's parameters: which of its space fit best on time-ordered folds.

`search` is all that others need. It knows nothing of hold-outs, of gates or of what a model costs: the hold-out's rows
never come here, so that the gate's measurement stays untouched by the search.
"""

from training.search.run import search
from training.search.trials import Found, Trial

__all__ = ["Found", "Trial", "search"]
