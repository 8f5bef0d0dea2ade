"""The saved program of torch predicts what the estimator predicts."""

import json

import numpy as np
import torch

from tests.export.checks import close, every_case
from tests.library.fitted import CASES, fitted


@every_case
def test_a_program_of_torch_predicts_the_same(name, tmp_path):
    estimator, X = fitted(name)
    estimator.to_torch(tmp_path / "net.pt2")
    extra = {"sk_obd.json": ""}
    module = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    found = module(torch.from_numpy(X))
    if hasattr(estimator, "classes_"):
        classes = np.array(json.loads(extra["sk_obd.json"])["classes"])
        found = [classes[found[0].numpy()], found[1].detach().numpy()]
    else:
        found = [found.detach().numpy()]
    close(found, estimator, X, CASES[name][2])
