"""
Look inside a pruned network
============================

Five pictures of one fitted estimator show how small it can be, which of the approximations behind
Optimal Brain Damage failed, what is left of every layer, and what the network still reads.
"""

# %%
# A network for the handwritten digits, 8 x 8 images, is pruned to a twentieth of its parameters.
# Half of the rows are kept out of the training and scored at every size.
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sk_obd import OBDClassifier
from sk_obd.display import (
    IncreaseDisplay,
    LayerSaliencyDisplay,
    MaskDisplay,
    PathDisplay,
    SaliencyDisplay,
)

X, y = load_digits(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(
    X / 16, y, test_size=0.5, stratify=y, random_state=0
)
clf = OBDClassifier(prune_rate=0.95, random_state=0)
clf.fit(X_train, y_train, X_val=X_val, y_val=y_val)
print(clf.path_)

# %%
# How small can it be? The picture shows the score and the training loss at every size, from the
# dense network on the left to the network that is kept. ``clf.path_.plot()`` draws the same.
PathDisplay.from_estimator(clf)

# %%
# What did every deletion cost? The upper panel shows the increase of the training loss that the
# saliencies predicted, and the one that was measured before retraining. The lower panel shows the
# terms of its expansion. The diagonal term is what OBD predicts. A large first-order term says that
# the network was not at a minimum, a large off-diagonal term says that the parameters deleted
# together interact, and a large higher-order term says that the loss is not quadratic.
IncreaseDisplay.from_estimator(clf)

# %%
# What is left of every layer, and how much does it matter?
SaliencyDisplay.from_estimator(clf)

# %%
# Which pixels does the network still read, and which weights are alive? Units that have no input or
# no output left, and inputs that no unit reads, are drawn in orange.
MaskDisplay.from_estimator(clf, input_shape=(8, 8))

# %%
# These are the saliencies of the first layer, with their sums by pixel (above) and by unit (right).
LayerSaliencyDisplay.from_estimator(clf, "hidden0.weight")

# %%
# Every display draws into the axes that it is given. Here these are the masks of the same network
# at three sizes, taken from its path without training again.
figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained")
for ax, rate in zip(axes, (0.5, 0.8, 0.95), strict=True):
    MaskDisplay.from_estimator(clf.at(prune_rate=rate), layers=["hidden0.weight"], ax=ax)
    ax.label_outer()
figure.suptitle("After deleting 50, 80 and 95 %")

plt.show()
