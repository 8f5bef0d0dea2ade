"""skorch nets pickled so that modules defined in a script or notebook reach another process.

joblib sends objects to its workers by cloudpickle, which takes a class of ``__main__`` along.
skorch pickles the modules of a net by themselves, by Python's own pickle, which only notes where
the class is to be imported from.
"""

import copy
from weakref import WeakValueDictionary

from skorch import NeuralNet

#: By the net's id, while a pickler holds them: so that a net that is met twice is pickled once.
_carried: WeakValueDictionary = WeakValueDictionary()


def carried(value):
    """What to pickle in the place of a value: for a skorch net on the CPU, its plain attributes."""
    if not isinstance(value, NeuralNet) or str(value.device) != "cpu":
        return value
    found = _carried.get(id(value))
    if found is None:
        found = _carried[id(value)] = Carried(value)
    return found


class Carried:
    """Becomes the net when it is unpickled."""

    def __init__(self, net):
        self.net = net

    def __deepcopy__(self, memo):
        return copy.deepcopy(self.net, memo)

    def __reduce__(self):
        return _empty, (type(self.net),), dict(vars(self.net)), None, None, _fill


def _empty(kind):
    return kind.__new__(kind)


def _fill(net, attributes):
    vars(net).update(attributes)
