"""WHO gets predictions: the HTTP server, batch scoring, and what a model costs to serve."""
