"""The parts that the benchmarks share: the machine line, tables and paired differences."""

import platform
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import sklearn
import skorch
import torch
from scipy import stats

import sk_obd


def machine():
    """One line with the machine and the versions that a benchmark ran on."""
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "skorch": skorch.__version__,
        "sk_obd": sk_obd.__version__,
    }
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Machine: {joblib.cpu_count()} cores, {platform.machine()}; {named}."


def table(header, rows):
    """A Markdown table whose first column is aligned to the left, all others to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells):
        first, *others = zip(cells, widths, strict=True)
        return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{c:>{w}}" for c, w in others) + " |"

    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join(map(line, [header, rule, *rows]))


def publish(parts, output=None):
    """Print the parts of a report, and write them to the file `output` if one is given."""
    text = "\n\n".join(parts) + "\n"
    print(f"\n{text}", flush=True)
    if output:
        Path(output).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over the splits of a repeated k-fold cross-validation.

    The training sets of the splits overlap, so their differences are not independent and the
    usual standard error is too small. The corrected one is that of C. Nadeau and Y. Bengio,
    Inference for the Generalization Error, Machine Learning 52, 2003: the variance of the mean
    of J differences is (1/J + n_test/n_train) times the variance of one.
    """

    mean: float
    standard_error: float
    corrected_error: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, ours, theirs, *, n_folds):
        """The mean difference of two lists of scores, paired by split, with its 95 % interval."""
        differences = np.subtract(ours, theirs)
        n_splits, mean = len(differences), float(differences.mean())
        spread = float(differences.std(ddof=1))
        error = spread * np.sqrt(1 / n_splits)
        corrected = spread * np.sqrt(1 / n_splits + 1 / (n_folds - 1))
        half = float(stats.t.ppf(0.975, n_splits - 1)) * corrected
        return cls(mean, error, corrected, (mean - half, mean + half))

    def __str__(self):
        low, high = self.interval
        return f"{self.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
