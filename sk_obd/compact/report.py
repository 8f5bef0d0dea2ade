"""What compacting did to each layer."""

from ..training.masks import count_alive


class CompactReport:
    """The layers of a network before and after it was made smaller.

    Attributes
    ----------
    rows : list of dict
        For each layer with parameters: "layer", "before" and "after" (the shape of its largest
        parameter), "left" (why it could not be cut, or "").
    n_params : (int, int)
        Parameters alive, before and after.
    n_stored : (int, int)
        Numbers stored in parameters, dead ones with them, before and after.
    sparse : tuple of str
        Layers that are predicted with as CSR matrices.
    """

    def __init__(self, rows, n_params, n_stored):
        self.rows, self.n_params, self.n_stored = rows, n_params, n_stored
        self.sparse = ()

    @classmethod
    def of(cls, module, masks, smaller, new_masks, left):
        """Compare a module and its masks with the smaller one's."""
        after = dict(smaller.named_parameters())
        rows = {}
        for name, parameter in module.named_parameters():
            layer, _, _ = name.rpartition(".")
            if layer in rows:
                continue
            # Submodules of what was left are left with it.
            reasons = [why for part, why in left.items() if f"{layer}.".startswith(f"{part}.")]
            rows[layer] = {
                "layer": layer,
                "before": tuple(parameter.shape),
                "after": tuple(after[name].shape),
                "left": "".join(reasons[:1]),
            }
        stored = [sum(p.numel() for p in net.parameters()) for net in (module, smaller)]
        alive = [count_alive(m) for m in (masks, new_masks)]
        return cls(list(rows.values()), tuple(alive), tuple(stored))

    @classmethod
    def unchanged(cls, module, masks, why):
        """The report on a network that was left as it is."""
        return cls.of(module, masks, module, masks, dict.fromkeys(_layers(module), why))

    def __str__(self):
        lines = [
            f"{row['layer']}: {row['before']} -> {row['after']}"
            + (" (sparse)" if row["layer"] in self.sparse else "")
            + (f" (left: {row['left']})" if row["left"] else "")
            for row in self.rows
        ]
        alive, stored = self.n_params, self.n_stored
        lines.append(f"alive: {alive[0]} -> {alive[1]}; stored: {stored[0]} -> {stored[1]}")
        return "\n".join(lines)

    __repr__ = __str__


def _layers(module):
    return {name.rpartition(".")[0] for name, _ in module.named_parameters()}
