"""Bugs in what a checkpoint may add for lanes: what laws 19 to 21 must catch."""

from __future__ import annotations

from planting import Plant, swap

VISIBLE, BESIDE = "lanes.LaneMask.visible", "lanes.LaneMask.same_step"
ONE_STEP = "(positions[:, None] == positions)"

ADDITIONS = [
    Plant(
        "a bridge adds its input",
        "identity",
        swap("side.Side.behind", "x = x + self.bridge(", "x = x + normed + self.bridge("),
    ),
    Plant(
        "the bridge's control takes the residual's place",
        "identity",
        swap(
            "side.Side.behind",
            'x = x + ops.linear(params, part + "down_proj"',
            'x = ops.linear(params, part + "down_proj"',
        ),
    ),
    Plant(
        "LACE adds what it starts from",
        "identity",
        swap("side.Side.beside", "return x + opened *", "return x + 0.1 * x + opened *"),
    ),
    Plant(
        "rows are moved when an embedding of lanes is there",
        "identity",
        swap("side.Side.embed", "x += params", "x = 1.001 * x + params"),
    ),
    Plant(
        "across a bridge a lane hears the lanes before it only",
        "bridge",
        swap(BESIDE, "reads = self.side[m, n]", "reads = self.side[m, n] & (n <= m)"),
    ),
    Plant(
        "a bridge knows the lane",
        "bridge",
        swap(
            "side.Side.bridge",
            "q, k, v = self._heads(",
            "x = x + x.dtype.type(0.1) * np.arange(x.shape[-2])[:, None].astype(x.dtype)\n"
            "    q, k, v = self._heads(",
        ),
    ),
    Plant(
        "earlier steps are heard across a bridge",
        "bridge",
        swap(BESIDE, ONE_STEP, "(positions[:, None] >= positions)"),
    ),
    Plant(
        "a lone row's bridge is left out",
        "bridge",
        swap("side.Side.bridge", "    mixed = ", "    v = v * (x.shape[-2] > 1)\n    mixed = "),
    ),
    Plant(
        "rows of one step see each other in spite of the lag",
        "multi stream",
        swap(VISIBLE, "(age >= self.lag)", "(age >= self.lag - 1)"),
    ),
    Plant(
        "a row of Multi-Stream does not see its own stream's last row",
        "multi stream",
        swap(VISIBLE, "(n == m), age >= 0", "(n == m), (age != 1) & (age >= 0)"),
    ),
]
