"""One module for each way of computing the diagonal: ``sums(problem, batch)``."""
