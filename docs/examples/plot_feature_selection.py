"""
Select features by pruning
==========================

A pruned network no longer reads all of its inputs. ``support_`` says which inputs it still reads,
and ``feature_importances_`` has, for each input, the sum of the saliencies of the weights that read
it. With these, scikit-learn's ``SelectFromModel`` can put a pruned network in front of any other
estimator. Here a pruned network chooses pixels of the handwritten digits for a nearest-neighbour
classifier, and is compared with mutual information and a random forest.
"""

# %%
# The data are 8 x 8 images. They have 64 features, and their corners are nearly always empty.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectFromModel, mutual_info_classif
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from sk_obd import OBDClassifier

X, y = load_digits(return_X_y=True)
X = X / 16
folds = StratifiedKFold(5, shuffle=True, random_state=0)
neighbours = KNeighborsClassifier(5)
network = OBDClassifier(prune_rate=0.95, random_state=0)

# %%
# Select the pixels that the pruned network still reads. ``support_`` is True or False, so any
# threshold between 0 and 1 gives the same result. The network decides how many pixels there are.
selector = SelectFromModel(network, importance_getter="support_", threshold=0.5)
result = cross_validate(
    make_pipeline(selector, neighbours), X, y, cv=folds, return_estimator=True, n_jobs=2
)
read = [pipeline[0].get_support() for pipeline in result["estimator"]]
print(f"Pixels read, by fold: {[int(support.sum()) for support in read]}")
print(f"Neighbours on these: accuracy {result['test_score'].mean():.4f}")
everything = cross_validate(neighbours, X, y, cv=folds)["test_score"]
print(f"Neighbours on all 64: accuracy {everything.mean():.4f}")

# %%
# To choose the number of pixels yourself, ``SelectFromModel(network, threshold=-np.inf,
# max_features=16)`` takes the most important ones. To compare several numbers without training
# again, rank the pixels once in each fold, on its training rows only, as ``SelectFromModel`` would.
sizes = [4, 6, 8, 10, 12, 16, 20, 24, 32]
forest = RandomForestClassifier(200, random_state=0)
rankings = {
    "OBD": [pipeline[0].estimator_.feature_importances_ for pipeline in result["estimator"]],
    "mutual information": [],
    "random forest": [],
}
splits = list(folds.split(X, y))
for train, _ in splits:
    rankings["mutual information"].append(mutual_info_classif(X[train], y[train], random_state=0))
    rankings["random forest"].append(clone(forest).fit(X[train], y[train]).feature_importances_)

scores = {name: np.zeros((len(splits), len(sizes))) for name in rankings}
for name, importances in rankings.items():
    for i, (train, test) in enumerate(splits):
        order = np.argsort(-importances[i], kind="stable")
        for j, size in enumerate(sizes):
            chosen = order[:size]
            fitted = clone(neighbours).fit(X[train][:, chosen], y[train])
            scores[name][i, j] = fitted.score(X[test][:, chosen], y[test])
means = pd.DataFrame({name: s.mean(axis=0) for name, s in scores.items()}, index=sizes)
print("Cross-validated accuracy of the neighbours by the number of pixels:")
print(means.rename_axis("pixels").to_string(float_format="{:.3f}".format))

# %%
# The spread over the folds says how large a difference must be to count. The network's choice is
# level with the forest's or a little better. Both are ahead of mutual information, which judges
# each pixel by itself and so may choose several that say the same.
spread = pd.DataFrame(
    {f"OBD - {n}": (scores["OBD"] - scores[n]).std(axis=0, ddof=1) for n in means.columns[1:]},
    index=sizes,
)
print("Standard deviation over folds of the paired differences:")
print(spread.rename_axis("pixels").to_string(float_format="{:.3f}".format))

# %%
# The two maps show what the pruned network looks at: in how many of the five folds it reads a
# pixel, and which share of the saliency the weights that read the pixel have. The curves show what
# its choice is worth.
fig, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", width_ratios=[1, 1, 1.5])
fig.get_layout_engine().set(wspace=0.06)
counts = np.sum(read, axis=0).reshape(8, 8)
image = axes[0].imshow(counts, cmap=plt.get_cmap("viridis", 6), vmin=-0.5, vmax=5.5)
axes[0].set_title("Folds that read a pixel", fontsize=12)
fig.colorbar(image, ax=axes[0], shrink=0.8, ticks=range(6))
importance = np.mean([i / i.sum() for i in rankings["OBD"]], axis=0).reshape(8, 8)
image = axes[1].imshow(100 * importance, cmap="viridis")
axes[1].set_title("Share of the saliency, in %", fontsize=12)
fig.colorbar(image, ax=axes[1], shrink=0.8)
for ax in axes[:2]:
    ax.set_xticks([])
    ax.set_yticks([])
ax = axes[2]
styles = {
    "OBD": ("C0", "o", 3),
    "mutual information": ("C1", "s", 2),
    "random forest": ("C2", "^", 1),
}
for name, (color, marker, zorder) in styles.items():
    ax.plot(means[name], color=color, marker=marker, lw=1.8, ms=5, zorder=zorder, label=name)
ax.axhline(everything.mean(), color="0.45", ls="--", lw=1.2, label="all 64 pixels")
ax.set(xscale="log", yscale="logit", xlabel="pixels chosen", ylabel="cross-validated accuracy")
ax.set_title("Nearest neighbours on the chosen pixels", fontsize=12)
y_ticks = [0.6, 0.7, 0.8, 0.9, 0.95, 0.98]
ax.set_yticks(y_ticks, [f"{score:g}" for score in y_ticks])
ax.set_xticks(sizes, sizes)
ax.minorticks_off()
ax.spines[["top", "right"]].set_visible(False)
ax.grid(axis="y", color="0.92")
ax.set_axisbelow(True)
ax.legend(loc="lower right", frameon=False)

fig.savefig("feature_selection.png", dpi=150)
print("Picture saved as feature_selection.png")
