"""The models that compete, and the plain one that each must beat, on the float32 matrix that `ModelInput` describes."""

from collections.abc import Sequence
from typing import Any

from millrace import ModelInput


def positions(inputs: Sequence[ModelInput], kind: str) -> list[int]:
    """Which columns of the matrix are of a kind."""
    return [position for position, one in enumerate(inputs) if one.kind == kind]


def logistic(inputs: Sequence[ModelInput]) -> Any:
    """The baseline: logistic regression on imputed and scaled numbers and one-hot categories."""
    from sklearn import compose, impute, linear_model, pipeline, preprocessing

    numbers = pipeline.make_pipeline(impute.SimpleImputer(keep_empty_features=True), preprocessing.StandardScaler())
    codes = preprocessing.OneHotEncoder(handle_unknown="ignore")
    columns = (numbers, positions(inputs, "numeric")), (codes, positions(inputs, "categorical"))
    model = linear_model.LogisticRegression(C=0.1, max_iter=300)
    return pipeline.make_pipeline(compose.make_column_transformer(*columns), model)


def hist_gbm(inputs: Sequence[ModelInput], **params: Any) -> Any:
    """Gradient boosting on codes as plain numbers: with `categorical_features` its ONNX export is silently wrong."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(min_samples_leaf=100, l2_regularization=1.0, early_stopping=False, **params)


def embedding_net(inputs: Sequence[ModelInput], width: int = 64) -> Any:
    """A network on an embedding a category and on standardized numbers, each with a flag that says it is missing.

    While it learns, one number in fifty goes missing: some hardly ever do, and a flag never seen would be untrained.
    """
    import torch
    from torch import nn

    numeric, codes = positions(inputs, "numeric"), positions(inputs, "categorical")

    class EmbeddingNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.ModuleList(nn.Embedding(len(inputs[code].categories) + 1, 8) for code in codes)
            self.register_buffer("mean", torch.zeros(len(numeric)))
            self.register_buffer("spread", torch.ones(len(numeric)))
            first, last = nn.Linear(2 * len(numeric) + 8 * len(codes), width), nn.Linear(width, 1)
            self.layers = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, width), nn.ReLU(), last)

        def fit_statistics(self, X: torch.Tensor) -> None:
            self.mean = X[:, numeric].nanmean(0).nan_to_num()
            spread = (X[:, numeric] - self.mean).square().nanmean(0).sqrt()
            self.spread = torch.where(spread > 0, spread, 1.0)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            scaled = ((X[:, numeric] - self.mean) / self.spread).clamp(-5, 5)
            if self.training:
                scaled = torch.where(torch.rand_like(scaled) < 0.02, torch.nan, scaled)
            parts = [embed(X[:, code].long()) for code, embed in zip(codes, self.embeddings, strict=True)]
            parts += [scaled.nan_to_num(0.0), scaled.isnan().float()]
            return self.layers(torch.cat(parts, dim=1)).squeeze(-1)

    return EmbeddingNet()
