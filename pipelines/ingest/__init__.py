"""The ingest room: from a source's rows to the lake, validated, deduplicated, exactly once.

It knows nothing of Prefect or schedules: a flow calls `ingest_source` with the moment it acts at.
"""

from pipelines.ingest.read import read_rows
from pipelines.ingest.source import BEGINNING, IngestResult, ingest_source

__all__ = ["BEGINNING", "IngestResult", "ingest_source", "read_rows"]
