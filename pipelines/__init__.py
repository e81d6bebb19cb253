"""WHEN things happen: the flows and their deployments. A flow is a table of contents; the rooms do the work."""
