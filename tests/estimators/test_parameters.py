"""The table of parameters agrees with the signatures, the recipe and the documentation."""

import inspect
from dataclasses import fields

import pytest

from sk_obd import OBDClassifier, OBDClassifierCV, OBDRegressor, OBDRegressorCV
from sk_obd.estimators import docstrings
from sk_obd.estimators.parameters import PARAMETERS, names_where
from sk_obd.pruning.recipe import Recipe
from sk_obd.training.mlp import default_net

CLASSES = {"plain": (OBDClassifier, OBDRegressor), "cv": (OBDClassifierCV, OBDRegressorCV)}


@pytest.mark.parametrize("which", CLASSES)
def test_the_signatures_have_what_the_table_says(which):
    classifier, regressor = (list(inspect.signature(kind).parameters) for kind in CLASSES[which])
    wanted = {name for name, known in PARAMETERS.items() if known.classes in (which, "both")}
    assert set(classifier) == wanted
    assert set(regressor) == wanted - {"class_weight"}
    assert [name for name in classifier if name != "class_weight"] == regressor


def test_the_recipe_has_every_parameter_that_decides_and_two_numbers_of_the_fit():
    decide = names_where(decides="networks") + names_where(decides="path")
    assert sorted(field.name for field in fields(Recipe)) == sorted(
        [*decide, "dense_epochs", "seed"]
    )


def test_the_default_network_takes_its_settings():
    settings = names_where(default_net=True)
    assert set(settings) < set(inspect.signature(default_net).parameters)


def test_each_parameter_has_its_entry_in_the_documentation():
    assert set(docstrings.PARAMETERS) | set(docstrings.CV_PARAMETERS) == set(PARAMETERS)
    assert set(names_where(classes="cv")) <= set(docstrings.CV_PARAMETERS)
