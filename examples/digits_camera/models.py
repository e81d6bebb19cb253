"""The models that compete, and the plain one that each must beat, on the 64 grey values of an image."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from millrace import Distil, Int8, ModelInput, Prune, Real, TorchCandidate

from .sources import CLASSES


def logistic(inputs: Sequence[ModelInput]) -> Any:
    """The baseline: logistic regression on the grey values."""
    from sklearn import impute, linear_model, pipeline

    model = linear_model.LogisticRegression(C=0.01, max_iter=1000)
    return pipeline.make_pipeline(impute.SimpleImputer(keep_empty_features=True), model)


def cnn(inputs: Sequence[ModelInput], width: int = 16, dropout: float = 0.5) -> Any:
    """Three convolutions; while it learns, each image is turned, slanted, scaled and shifted a little at random.

    One in fifty is blank then: of a missing image the network says what it knows, which is how often each digit comes.
    """
    import torch
    from torch import nn
    from torch.nn.functional import affine_grid, grid_sample

    def block(channels: int, out: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()

    def moved(images: torch.Tensor) -> torch.Tensor:
        most = torch.tensor([0.15, 0.15, 0.1, 0.26, 0.26], device=images.device)
        by = (2 * torch.rand(len(images), 5, device=images.device) - 1) * most
        turn, lean, grow, right, down = by.unbind(1)
        moves = torch.stack([1 + grow, lean - turn, right, turn, 1 + grow, down], dim=1).view(-1, 2, 3)
        shown = images * (torch.rand(len(images), 1, 1, 1, device=images.device) > 0.02)
        return grid_sample(shown, affine_grid(moves, list(images.shape), align_corners=False), align_corners=False)

    class Cnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            narrow, wide = block(1, width), block(width, 2 * width)
            top = nn.Flatten(), nn.Dropout(dropout), nn.Linear(32 * width, 4 * width), nn.ReLU()
            last = nn.Linear(4 * width, len(CLASSES))
            self.layers = nn.Sequential(*narrow, *wide, nn.MaxPool2d(2), *block(2 * width, 2 * width), *top, last)

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            images = torch.where(X.isnan(), 0.0, X).clamp(0, 16).view(-1, 1, 8, 8) / 16
            return self.layers(moved(images) if self.training else images)

    return Cnn()


student = TorchCandidate(
    "student", partial(cnn, width=12, dropout=0.2), max_epochs=60, batch_size=32, patience=60, variants=(Int8(),)
)
network = TorchCandidate(
    "cnn",
    cnn,
    search={"learning_rate": Real(1e-3, 4e-3, default=2e-3, log=True), "dropout": (0.5, 0.3)},
    max_epochs=60,
    batch_size=64,
    patience=60,
    variants=(Distil(student), Prune(0.5, epochs=30), Int8()),
)
