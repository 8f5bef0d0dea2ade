"""What a path says."""


def column(estimator, name, rows=slice(None)):
    return [row[name] for row in estimator.path_][rows]
