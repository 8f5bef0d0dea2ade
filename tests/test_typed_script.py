"""What a user writes, checked by ``mypy --strict``: public names have types that fit together."""

import numpy as np
import torch
from torch import nn

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor, PruningPath, taylor_terms
from sk_obd.compact import dead_parameters, shrink
from sk_obd.curvature import diagonal, hessian_vector_product


def prune(X: np.ndarray, y: np.ndarray) -> tuple[int, np.ndarray, PruningPath]:
    """Fit, look at what is left, and take an earlier network."""
    clf = OBDClassifier(prune_rate=0.5, max_epochs=5, retrain_epochs=1, random_state=0)
    fitted = clf.fit(X, y)
    alive: int = fitted.n_params_
    smaller = fitted.at(iteration=0).compact()
    frame: list[float] = [row["loss"] for row in fitted.path_.rows]
    assert len(frame) == len(fitted.path_)
    return alive, smaller.predict(X), fitted.path_


def choose(X: np.ndarray, y: np.ndarray) -> float:
    """Choose the size by cross-validation."""
    found = OBDClassifierCV(cv=2, prune_rate=0.5, max_epochs=5, retrain_epochs=1, random_state=0)
    mask: dict[str, np.ndarray] = found.fit(X, y).mask_
    return float(sum(alive.sum() for alive in mask.values()))


def second_derivatives(X: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Curvature, products, and the terms of a deletion."""
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    criterion = nn.CrossEntropyLoss()
    h = diagonal(module, criterion, X, y, method="hessian")
    product = hessian_vector_product(module, criterion, X, y, h)
    masks = {name: value > 0 for name, value in h.items()}
    terms = taylor_terms(module, criterion, X, y, masks)
    assert isinstance(terms.actual_increase, float)
    smaller, new_masks, report = shrink(module, masks, X)
    assert len(dead_parameters(smaller, new_masks, X)) == len(report.to_frame()) * 2
    return product


def test_the_script_runs(iris: tuple[np.ndarray, np.ndarray]) -> None:
    """Types that are right and a script that fails would help nobody."""
    X, y = iris
    alive, labels, path = prune(X, y)
    assert alive == path[-1]["n_params"]
    assert labels.shape == y.shape
    assert choose(X, y) > 0
    rows = torch.tensor(X[::15], dtype=torch.float32)
    assert len(second_derivatives(rows, torch.tensor(y[::15]))) == 4
    values = OBDRegressor(max_epochs=5, retrain_epochs=1, random_state=0).fit(X, X[:, 0])
    assert values.predict(X).shape == y.shape
