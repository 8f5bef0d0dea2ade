"""The README's lines of code, run."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_lines_of_code_run_and_say_what_they_claim(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names = {}
    exec(code, names)
    clf = names["clf"]
    assert clf.n_params_ == 751
    assert clf.score(names["X_test"], names["y_test"]) > 0.95
    assert "predicted_increase" in capsys.readouterr().out
