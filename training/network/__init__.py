"""Torch networks, fitted: scikit-learn's interface outside, Lightning Fabric underneath.

`fit_torch` is the only way in. Importing this package does not import torch (2 s): `classifier.py` and `fit.py` import
what they need when they are called, and the modules behind `fit.py` import torch at their top.
"""

from training.network.classifier import TorchClassifier
from training.network.fit import fit_torch

__all__ = ["TorchClassifier", "fit_torch"]
