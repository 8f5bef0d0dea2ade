"""
Choose the size by cross-validation
===================================

How small can the network be? ``OBDClassifierCV`` follows one pruning path in each fold and scores
each network of that path on rows that the fold has not seen. It chooses the size with the best mean
score, or the smallest size within one standard error of it, and prunes a network on all rows to
that size.
"""

# %%
# The data are 30 measurements of cell nuclei, benign or malignant. A quarter of the rows is kept
# aside and used only at the end.
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sk_obd import OBDClassifierCV

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.25, stratify=y, random_state=0
)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

# %%
# Five paths lead from 3302 parameters to 7; the final fit follows. On so few rows, the log-loss
# tells sizes apart better than accuracy does.
clf = OBDClassifierCV(
    prune_rate=0.998, cv=5, scoring="neg_log_loss", rule="one_se", random_state=0, verbose=1
)
clf.fit(X_train, y_train)

# %%
# The results have one row for each size, starting with the dense network.
results = pd.DataFrame(clf.cv_results_)
columns = ["n_params", "prune_rate", "mean_test_score", "std_test_score", "mean_fit_time"]
print(results[columns].to_string(float_format="{:.4f}".format))

# %%
# How do the chosen network and the dense one that it came from do on the rows kept aside?
for name, network in {"dense": clf.at(iteration=0), "chosen": clf}.items():
    read = network.support_.sum()
    print(
        f"{name}: {network.n_params_} parameters, {read} of 30 inputs read, "
        f"test accuracy {network.score(X_test, y_test):.3f}"
    )

# %%
# In the picture each grey line is a fold, and the band is the mean with its standard error. The
# rule takes the smallest network whose mean is below the dashed line, which is one standard error
# above the best mean.
n_folds = 5
folds = -results[[f"split{k}_test_score" for k in range(n_folds)]]
loss = folds.mean(axis=1)
error = folds.std(axis=1, ddof=1) / n_folds**0.5
best = loss.idxmin()
sizes = results["n_params"]

fig, ax = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
ax.plot(sizes, folds, color="0.75", lw=0.9, label=["a fold", *["_"] * (n_folds - 1)])
ax.fill_between(sizes, loss - error, loss + error, color="C0", alpha=0.25, lw=0)
ax.plot(sizes, loss, "o-", color="C0", ms=5, lw=1.8, label="mean, with its standard error")
ax.axhline(loss[best] + error[best], color="0.4", ls="--", lw=1, label="best + one standard error")
for row, color, label in [(best, "C2", "best"), (clf.best_index_, "C1", "chosen (one_se)")]:
    ax.plot(
        sizes[row], loss[row], "o", ms=13, mfc="none", mec=color, mew=2.2,
        label=f"{label}: {sizes[row]} parameters",
    )  # fmt: skip

ticks = [*sizes[:-1:4], sizes.iloc[-1]]
ax.set(xscale="log", yscale="log")
ax.set_xticks(ticks, [f"{n}" for n in ticks], fontsize=11)
low, high = folds.min(axis=None), folds.max(axis=None)
y_ticks = [tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1) if low < tick < high]
ax.set_yticks(y_ticks, [f"{tick:g}" for tick in y_ticks], fontsize=11)
ax.minorticks_off()
ax.invert_xaxis()
ax.set_title("Breast cancer: choosing the size by five paths", fontsize=13)
ax.set_xlabel("parameters left", fontsize=12)
ax.set_ylabel("log-loss on the fold's test rows", fontsize=12)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(loc="best", fontsize=10, frameon=False)

fig.savefig("choose_size.png", dpi=150)
print("Picture saved as choose_size.png")
