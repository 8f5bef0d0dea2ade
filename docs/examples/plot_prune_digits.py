"""
Prune a network on the digits
=============================

Optimal Brain Damage takes a network for scikit-learn's handwritten digits from 7510 parameters
down to 376: it trains, deletes the parameters whose removal is predicted to raise the training loss
least, retrains, and so on. Deleting by magnitude and at random, with everything else the same,
shows what the choice of parameters is worth.
"""

# %%
# The data are 8 x 8 images, and half of them are kept aside for the test. Nothing below is chosen
# by looking at the test half.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sk_obd import OBDClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.5, stratify=y, random_state=0
)

# %%
# Train the default network (one hidden layer of 100 units) and prune 95 % of its parameters, a
# fifth of what is left at a time. ``verbose=1`` prints the progress.
clf = OBDClassifier(prune_rate=0.95, random_state=0, verbose=1).fit(X_train, y_train)

# %%
# The path has a row for each deletion. It shows the increase of the training loss that the
# saliencies predicted, the increase that was measured before retraining, and how well the network
# did after retraining. A deletion costs more than was predicted: weight decay holds the network
# away from the minimum of this loss, and what the gradient there adds (``first_order``) is not part
# of the paper's prediction.
columns = ["n_params", "predicted_increase", "first_order", "actual_increase", "loss", "n_epochs"]
print(clf.path_.to_frame()[columns].to_string(float_format="{:.5f}".format, na_rep=""))

# %%
# The same sizes are now reached by deleting the smallest weights, and by deleting random ones. The
# dense network is the same for all three, since only what is deleted differs. ``at`` gives the
# network of every row without training again.
fits = {"OBD": clf}
for saliency in ("magnitude", "random"):
    print(f"The same with saliency={saliency!r} ...", flush=True)
    other = OBDClassifier(prune_rate=0.95, saliency=saliency, random_state=0)
    fits[saliency] = other.fit(X_train, y_train)

scores = pd.DataFrame(
    {
        name: [fit.at(iteration=i).score(X_test, y_test) for i in range(len(fit.path_))]
        for name, fit in fits.items()
    },
    index=clf.path_.to_frame()["n_params"],
)
print("Test accuracy by the number of parameters left:")
print(scores.to_string(float_format="{:.3f}".format))

# %%
# How large must a difference be to count? A score of 0.97 on so many test images has a standard
# error of about 0.006. Lines that run closer together than twice that cannot be told apart by this
# one split; the benchmarks repeat such comparisons over many splits.
dense = scores["OBD"].iloc[0]
print(f"Standard error of the dense score: {np.sqrt(dense * (1 - dense) / len(y_test)):.3f}")

# %%
# The picture runs from the dense network on the left to a twentieth of it on the right. The logit
# scale gives room to the differences near 1.
fig, ax = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
ax.axhline(dense, color="0.45", ls="--", lw=1.2, label="dense")
styles = {"OBD": ("C0", "o", 3), "magnitude": ("C1", "s", 2), "random": ("C2", "^", 1)}
for name, (color, marker, zorder) in styles.items():
    ax.plot(scores[name], color=color, marker=marker, ms=6, lw=1.8, zorder=zorder, label=name)

x_ticks = [*scores.index[:-1:3], scores.index[-1]]
y_ticks = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]
lowest, highest = scores.min(axis=None), scores.max(axis=None)
ax.set(xscale="log", yscale="logit", ylim=(lowest - 0.03, highest + (1 - highest) / 2))
ax.set_xticks(x_ticks, [f"{n}" for n in x_ticks], fontsize=11)
ax.set_yticks(y_ticks, [f"{score:g}" for score in y_ticks], fontsize=11)
ax.minorticks_off()
ax.invert_xaxis()
ax.set_title("Pruning a 64-100-10 network on the digits", fontsize=13)
ax.set_xlabel("parameters left", fontsize=12)
ax.set_ylabel("test accuracy", fontsize=12)
ax.spines[["top", "right"]].set_visible(False)
ax.grid(axis="y", color="0.92")
ax.set_axisbelow(True)
ax.legend(loc="lower left", fontsize=11, frameon=False)

fig.savefig("prune_digits.png", dpi=150)
print("Picture saved as prune_digits.png")
