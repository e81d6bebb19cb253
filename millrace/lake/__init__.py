"""The lake room: versioned tables, what each commit leaves beside its rows, and their care.

`tables` reads and writes, `log` is what a commit says of itself, `files` its bytes, `care` checks, compacts and
vacuums, `origin` tells which batch brought a row. It knows nothing of use cases, schemas or models.
"""

from millrace.lake.tables import Commit, Lake, open_lake

__all__ = ["Commit", "Lake", "open_lake"]
