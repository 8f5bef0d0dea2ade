import numpy as np
import pytest


@pytest.fixture(scope="module")
def images(digits):
    X, y = digits
    return X.reshape(-1, 8, 8).astype(np.float32), y
