"""Private: the predictor outside of scikit-learn, as an ONNX, a torch or a plain NumPy program.

`program` turns an estimator into one `torch.export` program from X to predictions; `onnx_file`,
`torch_file` and `numpy_file` each write that program in a form of its own and check the result
against the estimator. `params_file` saves and loads the fitted network itself.
"""

from .numpy_file import to_numpy
from .onnx_file import to_onnx
from .program import Source
from .torch_file import to_torch

__all__ = ["Source", "to_numpy", "to_onnx", "to_torch"]
