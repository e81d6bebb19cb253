"""Batch scoring: many rows through the same contract and engine that answer one."""
