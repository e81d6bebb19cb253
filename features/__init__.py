"""WHAT the model sees: feature tables, the Feast store, point-in-time training sets, online reading, freshness."""
