"""The predictor as an ONNX file."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import torch

from ..display.optional import require
from .files import write_whole
from .literals import unknown_label
from .program import Source, check_program, export_program


def to_onnx(source: Source, path: str | os.PathLike[str]) -> None:
    """Write the predictor as an ONNX file (see ``FittedMixin.to_onnx``)."""
    require("onnx", "onnxscript", "onnxruntime", task="to_onnx", extra="export")
    program = export_program(source)
    try:
        with warnings.catch_warnings():
            # The exporter warns of its own doings.
            warnings.simplefilter("ignore")
            exported: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["X"],
                output_names=["code", "probabilities"] if source.classifies else ["variable"],
            )
            model = exported.model_proto
    except Exception as error:
        # Anything may have no counterpart in ONNX.
        raise ValueError(
            f"torch.onnx cannot write the module {type(source.net.module_).__name__}: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if source.classifies:
        _label(model, source.classes)
    data = model.SerializeToString()
    check_program(source, _runner(data, source), "onnxruntime")
    write_whole(path, data)


def _label(model, classes):
    """Replace the model's output ``code`` by ``label = classes[code]``, in place."""
    from onnx import TensorProto, helper, numpy_helper

    if classes.dtype.kind in "UO":
        texts = _texts(classes)
        known = helper.make_tensor("classes", TensorProto.STRING, [len(classes)], texts)
    elif classes.dtype.kind in "biuf" and classes.dtype.itemsize <= 8:
        known = numpy_helper.from_array(classes, "classes")
    else:
        raise unknown_label(classes.dtype.type)
    graph = model.graph
    graph.initializer.append(known)
    graph.node.append(helper.make_node("Gather", ["classes", "code"], ["label"], axis=0))
    outputs = {output.name: output for output in graph.output}
    rows = outputs["probabilities"].type.tensor_type.shape.dim[0].dim_param or "n_rows"
    label = helper.make_tensor_value_info("label", known.data_type, [rows])
    del graph.output[:]
    graph.output.extend([label, outputs["probabilities"]])


def _texts(classes) -> Any:
    """Labels as ONNX has text."""
    for label in classes:
        # The text of a subclass of str is what its code says.
        if type(label) not in (str, np.str_):
            raise unknown_label(type(label))
    try:
        return [str(label).encode() for label in classes]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The class label {error.object!a} has half a surrogate pair, and ONNX has text in "
            "UTF-8. Correct the label, or encode y before fit."
        ) from error


def _runner(data, source):
    """A function from rows to what onnxruntime predicts with the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's exceptions have no common public class.
        raise ValueError(
            f"onnxruntime cannot run the network: {str(error).strip().splitlines()[0]}. It has "
            "fewer operations in float64 than in float32 (it lacks GELU, for example): fit to "
            "float32 X, with a float32 module."
        ) from error

    def run(rows):
        found = session.run(None, {"X": rows})
        if not source.classifies:
            return found[0]
        labels = np.asarray(found[0])
        return labels.astype(source.classes.dtype), found[1]

    return run
