import numpy as np
import pytest

from sk_obd import OBDClassifier
from sk_obd.display import IncreaseDisplay, PathDisplay
from tests.display.rows import column
from tests.library.settings import UNTRAINED

pytestmark = pytest.mark.filterwarnings("error", UNTRAINED)


def test_the_path_is_drawn_as_its_rows_say(fitted):
    drawn = PathDisplay.from_estimator(fitted)
    assert set(drawn.lines_) == {"training", "loss"}
    for key, name in (("training", "train_score"), ("loss", "loss")):
        np.testing.assert_array_equal(drawn.lines_[key].get_xdata(), column(fitted, "n_params"))
        np.testing.assert_array_equal(drawn.lines_[key].get_ydata(), column(fitted, name))
    assert set(drawn.kept_line_.get_xdata()) == {fitted.n_params_}
    assert set(drawn.dense_line_.get_ydata()) == {fitted.path_[0]["train_score"]}
    assert drawn.ax_.get_xlim()[0] > drawn.ax_.get_xlim()[1]
    assert drawn.ax_.get_ylabel() == "accuracy"
    assert drawn.fill_between_ is None
    assert fitted.path_.plot().lines_["loss"].get_ydata() == pytest.approx(column(fitted, "loss"))


def test_the_validation_score_is_drawn_where_there_is_one(iris):
    X, y = iris
    clf = OBDClassifier(hidden_layer_sizes=(5,), max_epochs=5, scoring="neg_log_loss")
    clf.fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
    drawn = PathDisplay.from_estimator(clf)
    expected = column(clf, "validation_score")
    np.testing.assert_array_equal(drawn.lines_["validation"].get_ydata(), expected)
    assert set(drawn.dense_line_.get_ydata()) == {expected[0]}
    assert drawn.ax_.get_ylabel() == "neg log loss"


def test_a_cross_validation_is_drawn_with_its_band(fitted):
    sizes = np.array([83, 40, 8, 4])
    folds = np.array([[0.9, 0.92, 0.8, 0.5], [0.94, 0.9, 0.9, 0.6]])
    results = {"n_params": sizes, "mean_test_score": folds.mean(0), "std_test_score": folds.std(0)}
    drawn = PathDisplay.from_path(fitted.path_, cv_results=results, name="OBD")
    line = drawn.lines_["cross-validation"]
    np.testing.assert_array_equal(line.get_xdata(), sizes)
    np.testing.assert_array_equal(line.get_ydata(), folds.mean(0))
    band = drawn.fill_between_.get_paths()[0].vertices
    for size, low, high in zip(sizes, folds.min(0), folds.max(0), strict=True):
        # Of two folds, mean and standard deviation give back the two.
        of_size = band[band[:, 0] == size, 1]
        assert (of_size.min(), of_size.max()) == pytest.approx((low, high))
    assert set(drawn.dense_line_.get_ydata()) == {folds.mean(0)[0]}
    assert line.get_label() == "OBD, cross-validation"
    assert drawn.axes_[0].get_xlim() == drawn.axes_[1].get_xlim()


def test_a_path_of_the_dense_network_only_is_drawn(iris):
    clf = OBDClassifier(prune_rate=0, hidden_layer_sizes=(5,), max_epochs=3).fit(*iris)
    PathDisplay.from_estimator(clf).figure_.canvas.draw()
    with pytest.raises(ValueError, match="nothing was deleted"):
        IncreaseDisplay.from_estimator(clf)
