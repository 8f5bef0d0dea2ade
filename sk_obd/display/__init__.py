"""Pictures of a fitted estimator, in the style of scikit-learn's displays.

Each has ``from_estimator``, a constructor that takes the numbers, and ``plot``. matplotlib is
imported only when something is drawn.
"""

from .increase import IncreaseDisplay
from .layer_saliency import LayerSaliencyDisplay
from .mask import MaskDisplay
from .path import PathDisplay
from .saliency import SaliencyDisplay

__all__ = [
    "IncreaseDisplay",
    "LayerSaliencyDisplay",
    "MaskDisplay",
    "PathDisplay",
    "SaliencyDisplay",
]
