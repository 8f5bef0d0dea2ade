"""The tests, in folders that mirror the rooms of `sk_obd`.

What a room's module does is tested in the file of its name: `tests/pruning/test_cache.py` tests
`sk_obd/pruning/cache.py`. The folder `library` has what the tests share, and no test file imports
another. What takes long is marked as slow: `pytest -m "not slow"` leaves it out, and keeps at least
one case of each kind.
"""
