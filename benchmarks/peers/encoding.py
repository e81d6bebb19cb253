"""What a server of one's own needs before a model: named values of a row into the model's numbers.

The rules of the flights' contract, written as plainly and as fast as a careful user would; needs the standard library.
"""

import json
from pathlib import Path

MISSING = float("nan")


class Encoder:
    """Encodes rows as the contract beside the model says."""

    def __init__(self, model):
        inputs = json.loads(Path(model).with_name("contract.json").read_text())["inputs"]
        self.names = [one["name"] for one in inputs]
        self.codes = {
            one["name"]: {category: code for code, category in enumerate(one["categories"])}
            for one in inputs
            if one["kind"] == "categorical"
        }
        self.always_missing = {one["name"] for one in inputs if one.get("always_missing")}

    def row(self, row):
        """A row's numbers; `KeyError` when one is absent."""
        return [self.value(name, row[name]) for name in self.names]

    def value(self, name, value):
        """One number."""
        if name in self.codes:
            return self.codes[name].get(value, len(self.codes[name]))
        if name in self.always_missing:
            return 0.0
        return MISSING if value is None else value
