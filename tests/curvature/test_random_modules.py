"""Random networks: every exact method equals plain autograd, or refuses in so many words.

80 networks are among the quick tests, 200 among all of them; with the environment variable
FULL_CHECKS=1 (set by ``.ci/run full``) they are 2000.
"""

from __future__ import annotations

import os
import warnings

import pytest

from sk_obd.curvature import diagonal
from tests.curvature.plain import ggn_diagonal, hessian_diagonal
from tests.curvature.random_modules import Problem
from tests.library.marks import slow_but

NETWORKS = 2000 if os.environ.get("FULL_CHECKS") else 200
AT_ONCE = 20
QUICK = range(0, 80, AT_ONCE)


def worst(found, expected):
    """The largest difference, relative to the largest number of all."""
    assert list(found) == list(expected)
    size = max((v.abs().max().item() for v in expected.values()), default=0.0)
    gap = max((found[k] - v).abs().max().item() for k, v in expected.items())
    return gap / size if size else gap


def expected_of(problem, method):
    module = problem.module
    if method == "hessian":
        return hessian_diagonal(module, problem.value)
    return ggn_diagonal(
        module, lambda m: problem.logits(m(problem.X)), lambda z: problem.at(z, problem.y)
    )


@pytest.mark.parametrize("start", slow_but(QUICK, range(0, NETWORKS, AT_ONCE)))
def test_random_networks_are_right_or_refused(start):
    refused, once = [], []
    for seed in range(start, start + AT_ONCE):
        problem = Problem(seed)
        for method in ("ggn", "hessian"):
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # the safety net has nothing to say
                try:
                    found = diagonal(
                        *(problem.module, problem.criterion, problem.X, problem.y),
                        method=method,
                        outputs=problem.outputs,
                        batch_size=problem.batch_size,
                        check=bool(seed % 2),
                    )
                except RuntimeError as error:  # torch.cdist has no second derivative
                    once.append((method, "prototypes" in str(problem), str(error)))
                    continue
                except ValueError as error:
                    refused.append(f"seed {seed}, {method}: {error}")
                    continue
            gap = worst(found, expected_of(problem, method))
            assert gap <= 1e-8, f"seed {seed}, {method}: {gap} of {problem}"
    assert not refused
    for method, has_distances, reason in once:
        assert method == "hessian"
        assert has_distances
        assert 'use method="ggn"' in reason
