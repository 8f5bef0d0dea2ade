"""Set-up of Sphinx: ``pip install torch==2.13.0 '.[docs]' && sphinx-build docs docs/_build``."""

import sk_obd

project = "sk_obd"
author = "The sk_obd developers"
release = sk_obd.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "benchmarks", "examples"]
html_theme = "alabaster"
html_theme_options = {"description": "Optimal Brain Damage as a scikit-learn estimator"}
autosummary_generate = True
# Inherited docstrings of scikit-learn refer to labels of its own documentation.
suppress_warnings = ["ref.ref"]
numpydoc_show_class_members = False
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "show_memory": False,
}
