"""The predict path: from a request's bytes to logged scores, without a DataFrame."""
