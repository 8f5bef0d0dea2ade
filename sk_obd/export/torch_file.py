"""The predictor as a saved `torch.export` program."""

from __future__ import annotations

import io
import json
import os

import torch

from .files import write_whole
from .literals import plain_labels
from .program import Source, check_program, export_program


def to_torch(source: Source, path: str | os.PathLike[str]) -> None:
    """Save the predictor as a program of torch (see ``FittedMixin.to_torch``)."""
    program = export_program(source)
    classes = source.classes
    about = {"classes": None if classes is None else plain_labels(classes)}
    file = io.BytesIO()
    try:
        torch.export.save(program, file, extra_files={"sk_obd.json": json.dumps(about)})
        # Check what a reader of the file will run.
        module = torch.export.load(io.BytesIO(file.getvalue())).module()
    except Exception as error:
        # Of torch's many, among others for names of layers that it cannot read back.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"torch.export cannot save the module {type(source.net.module_).__name__} and load it "
            f"again: {reason}. Are there names of layers with other "
            "characters than letters, digits and '_'? Rename them; or export with to_onnx."
        ) from error

    def run(rows):
        with torch.no_grad():
            found = module(torch.from_numpy(rows))
        if classes is None:
            return found.numpy()
        return classes[found[0].numpy()], found[1].numpy()

    check_program(source, run, "The program of torch.export")
    write_whole(path, file.getvalue())
