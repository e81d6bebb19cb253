"""What a training that was killed has left behind: bundles that nobody will register, runs that never ended.

Only who holds a use case's training lease may clear it: what another training has just made looks the same.
"""

from __future__ import annotations

import logging
import shutil

from millrace.settings import Settings
from training.tracking import Tracking

_log = logging.getLogger(__name__)


def clear_leftovers(settings: Settings, use_case: str, tracking: Tracking) -> None:
    """Remove the use case's staged bundles, and end its open runs in MLflow as killed."""
    staged = settings.folder("staging") / use_case
    for folder in staged.iterdir() if staged.is_dir() else ():
        _log.info("The staged bundle %s of an earlier training is removed.", folder)
        shutil.rmtree(folder, ignore_errors=True)
    tracking.end_left()
