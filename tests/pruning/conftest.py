import pytest

from sk_obd.pruning import recipe


@pytest.fixture
def trained(monkeypatch):
    """The iterations that really train, noted as they do."""
    calls, original = [], recipe.iterate

    def note(run, total):
        calls.append(len(run.path))
        return original(run, total)

    monkeypatch.setattr(recipe, "iterate", note)
    return calls
