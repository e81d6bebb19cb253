"""The models that compete to answer, and the plain one that each must beat.

All take the float32 matrix that `ModelInput` describes: numbers with NaN where missing, categories as positions.
"""

from collections.abc import Sequence
from typing import Any

from millrace import ModelInput


def logistic(inputs: Sequence[ModelInput], C: float = 0.1) -> Any:
    """The baseline: logistic regression on imputed and scaled numbers and one-hot categories."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric, categorical = (
        [i for i, one in enumerate(inputs) if one.kind == kind] for kind in ("numeric", "categorical")
    )
    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    columns = make_column_transformer((numbers, numeric), (OneHotEncoder(handle_unknown="ignore"), categorical))
    return make_pipeline(columns, LogisticRegression(C=C, max_iter=300))


def hist_gbm(inputs: Sequence[ModelInput], **params: Any) -> Any:
    """Gradient boosting. Categories stay plain numbers: with `categorical_features` the ONNX export is silently wrong."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(min_samples_leaf=100, l2_regularization=1.0, early_stopping=False, **params)


def embedding_net(inputs: Sequence[ModelInput], width: int = 64) -> Any:
    """A network: an embedding a category, standardized numbers with a flag for each that is missing, two hidden layers."""
    import torch
    from torch import nn

    numeric, categorical = (
        [i for i, one in enumerate(inputs) if one.kind == kind] for kind in ("numeric", "categorical")
    )
    sizes = [len(inputs[i].categories) + 1 for i in categorical]

    class EmbeddingNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.ModuleList(nn.Embedding(size, min(16, 1 + size // 2)) for size in sizes)
            self.register_buffer("mean", torch.zeros(len(numeric)))
            self.register_buffer("std", torch.ones(len(numeric)))
            features = 2 * len(numeric) + sum(min(16, 1 + size // 2) for size in sizes)
            hidden = [nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, width), nn.ReLU()]
            self.layers = nn.Sequential(*hidden, nn.Linear(width, 1))

        def fit_statistics(self, X: torch.Tensor) -> None:
            """Mean and spread of the numbers, from the rows it will be fitted on."""
            numbers = X[:, numeric]
            mean = numbers.nanmean(0).nan_to_num()
            spread = (numbers - mean).square().nanmean(0).sqrt().nan_to_num()
            self.mean, self.std = mean, torch.where(spread > 0, spread, 1.0)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            numbers = X[:, numeric]
            missing = numbers.isnan()
            scaled = ((torch.where(missing, self.mean, numbers) - self.mean) / self.std).clamp(-5, 5)
            codes = [embed(X[:, i].long()) for i, embed in zip(categorical, self.embeddings, strict=True)]
            return self.layers(torch.cat([scaled, missing.float(), *codes], dim=1)).squeeze(-1)

    return EmbeddingNet()
