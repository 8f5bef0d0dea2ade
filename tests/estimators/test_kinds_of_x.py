"""X of types that torch does not know: as scikit-learn's own estimators take them."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor

N = 60
Y = np.arange(N) % 2
VALUES = np.c_[np.arange(N) % 5, np.arange(N) % 7].astype(float)
QUICK = {"hidden_layer_sizes": (4,), "max_epochs": 3, "retrain_epochs": 1, "random_state": 0}


def frame(first):
    return pd.DataFrame({"a": first, "b": np.arange(N) / N})


TEXT = ["u", "v"] * (N // 2)
REFUSED = {
    "category of text": frame(pd.Categorical(TEXT)),
    "only categories of text": frame(pd.Categorical(TEXT))[["a"]],
    "ordered category of text": frame(pd.Categorical(TEXT, ordered=True)),
    "text": frame(TEXT),
    "objects": np.array([[t, 1.0] for t in TEXT], dtype=object),
    "array of text": np.array([[t, "w"] for t in TEXT]),
    "dates in a frame": frame(pd.date_range("2020-01-01", periods=N)),
    "periods": frame(pd.period_range("2020-01", periods=N, freq="M")),
    "complex": VALUES + 1j,
    "missing in a category": frame(pd.Categorical([None, 1.0] * (N // 2))),
}


def outcome(estimator, X, y=Y):
    """The error of a fit, or None."""
    try:
        estimator.fit(X, y)
    except (TypeError, ValueError) as error:
        return error
    return None


@pytest.mark.parametrize("name", REFUSED)
def test_what_scikit_learn_refuses_is_refused_with_the_same_words(name):
    X = REFUSED[name]
    expected = outcome(MLPClassifier(max_iter=2), X)
    found = outcome(OBDClassifier(**QUICK), X)
    assert expected is not None
    assert isinstance(found, type(expected))
    first = str(expected).splitlines()[0].split("Input X contains")
    assert first[-1].replace("MLPClassifier", "OBDClassifier") in str(found)


ACCEPTED = {
    "category of numbers": lambda: frame(pd.Categorical(VALUES[:, 0])),
    "only categories of numbers": lambda: frame(pd.Categorical(VALUES[:, 0].astype(int)))[["a"]],
    "objects that are numbers": lambda: VALUES.astype(object),
    "text of numbers": lambda: frame([str(v) for v in VALUES[:, 0]]),
    "nullable integers": lambda: frame(pd.array(VALUES[:, 0].astype(int), dtype="Int64")),
    "nullable floats": lambda: frame(pd.array(VALUES[:, 0], dtype="Float32")),
    "nullable bools": lambda: frame(pd.array(VALUES[:, 0] > 2, dtype="boolean")),
    "datetime64": lambda: np.datetime64("1970-01-01") + VALUES.astype("timedelta64[D]"),
    "timedelta64": lambda: VALUES.astype("timedelta64[D]"),
    "big-endian float64": lambda: VALUES.astype(">f8"),
    "big-endian float32": lambda: VALUES.astype(">f4"),
    "big-endian int16": lambda: VALUES.astype(">i2"),
    "longdouble": lambda: VALUES.astype(np.longdouble),
    "float16": lambda: VALUES.astype(np.float16),
    "uint64": lambda: VALUES.astype(np.uint64),
    "bool": lambda: VALUES > 2,
    "array of text of numbers": lambda: VALUES.astype(str),
    "longdouble CSR": lambda: sparse.csr_array(VALUES.astype(np.longdouble)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_scikit_learn_converts_is_converted_to_the_same_numbers(name):
    X = ACCEPTED[name]()
    expected = outcome(MLPClassifier(max_iter=2), X)
    if expected is not None:
        assert isinstance(outcome(OBDClassifier(**QUICK), X), type(expected))
        return
    numbers = X.toarray() if sparse.issparse(X) else np.asarray(X)
    numbers = np.asarray(numbers, dtype=np.float64)
    # As float32 where X is: the default network then is.
    is_single = getattr(X, "dtype", None) in (np.dtype("f4"), np.dtype(">f4"))
    clf, right = (OBDClassifier(**QUICK).fit(x, Y) for x in (X, numbers))
    rtol = 1e-3 if is_single else 1e-6
    if not is_single:
        np.testing.assert_allclose(clf.predict_proba(X), right.predict_proba(numbers), rtol=rtol)
    assert clf.predict(X).shape == (N,)
    if hasattr(X, "iloc"):
        assert clf.predict(X.iloc[:1]).shape == (1,)
        assert clf.score(X.iloc[:7], Y[:7]) <= 1
    else:
        assert clf.predict(X[:1]).shape == (1,)


@pytest.mark.parametrize("dtype", [">f8", ">f4", np.longdouble, ">i4"])
def test_types_of_other_rows_and_of_y_and_weights(dtype):
    X, y = VALUES.astype(dtype), VALUES[:, 0].astype(dtype)
    reg = OBDRegressor(**QUICK).fit(X, y, np.ones(N).astype(dtype), X_val=X[:9], y_val=y[:9])
    right = OBDRegressor(**QUICK).fit(VALUES, VALUES[:, 0])
    if dtype != ">f4":
        np.testing.assert_allclose(reg.predict(VALUES.astype(dtype)), right.predict(VALUES))
    assert outcome(MLPRegressor(max_iter=2), X, y) is None
    assert outcome(Ridge(), X, y) is None
    OBDClassifierCV(cv=2, **QUICK).fit(X, Y.astype(dtype)).predict(X)


def test_dates_given_to_predict_are_refused_as_in_fit():
    clf = OBDClassifier(**QUICK).fit(VALUES, Y)
    with pytest.raises(ValueError, match="could not convert string to float: 'u'"):
        clf.predict(np.array([["u", 1.0]], dtype=object))
