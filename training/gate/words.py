"""What the sentences of a verdict call the figures that a budget may limit. Knows no rule."""

from __future__ import annotations

METRIC_WORDS = {
    "accuracy": ("Accuracy", ""),
    "roc_auc": ("ROC AUC", ""),
    "log_loss": ("Log loss", ""),
    "brier": ("Brier score", ""),
    "calibration_error": ("Calibration error", ""),
    "p50_ms": ("Median latency of one row", " ms"),
    "p99_ms": ("p99 latency of one row", " ms"),
    "p50_ms_100": ("Median latency of 100 rows", " ms"),
    "p99_ms_100": ("p99 latency of 100 rows", " ms"),
    "memory_mb": ("Memory added by the model", " MB"),
    "bundle_mb": ("Size of the bundle", " MB"),
    "cold_start_ms": ("Time to the first answer in a new process", " ms"),
    "joules_per_1000": ("Energy of 1,000 predictions", " J"),
}
"""What a sentence calls a metric, and its unit."""
