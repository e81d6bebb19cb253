"""Variants of a fitted network: quantized, pruned and distilled models, each made on request and gated like any other.

`make_variants` is the only way in. Importing this package imports neither torch nor onnx.
"""

from training.variants.make import make_variants

__all__ = ["make_variants"]
