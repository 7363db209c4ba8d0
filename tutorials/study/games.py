"""Tables 4, 5 and 7 as data: what tells lanes apart (the shell game), where live reading wins
(frontier), and schedules (the shell game again). The recipe of a cell is the common one with a few
fields changed.

Not handled: checkpoints. These models are scored by the trainer itself (`games_score`), from their
saved state.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.core.decoder import Ops, Plan, make_plan
from tinylane.core.errors import TinylaneError, show
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask, Places
from tinylane.core.mlx_ops import OPS
from tinylane.evaluate.tasks.frontier import Frontier
from tutorials.study.cells import StudyRecipe
from tutorials.study.schedules import ScheduledGame
from tutorials.study.trainer import StudyTrainer


@dataclass(frozen=True)
class OneTag(Frontier):
    """Frontier for any number of lanes, which all begin with the same token."""

    def lane_prompts(self, n: int) -> list[str]:
        """The tag of one lane, n times."""
        return super().lane_prompts(self.lanes[0])[:1] * n


@dataclass(frozen=True)
class CellRecipe(StudyRecipe):
    """The study's recipe, and what else may tell lanes apart.

    lane_embed: an embedding of the lane, added to the input of its rows. lane_kv: one for each
    layer and head, added to keys (before their norm and rotation), and another added to values.
    view_order: the rotation of Hogwild!. What the decoder itself has for lanes is in `extra`.
    one_tag: frontier's lanes all begin with the same token. schedule: of the shell game, one of
    `schedules.SCHEDULES`.
    """

    lane_embed: bool = False
    lane_kv: bool = False
    view_order: bool = False
    one_tag: bool = False

    @property
    def game(self) -> Any:
        """The task."""
        if self.game_name == "frontier":
            kind = OneTag if self.one_tag else Frontier
            return kind(self.nodes, self.edges, self.depth, self.lanes, self.schedule)
        return ScheduledGame(self.cups, self.swaps, self.lanes, self.lag, self.schedule)

    @property
    def settings(self) -> dict[str, Any]:
        """As `Recipe.settings`; `one_tag` only where it is on."""
        return {k: v for k, v in super().settings.items() if k != "one_tag" or v}


@dataclass(frozen=True)
class FrontierRecipe(CellRecipe):
    """The recipe of table 5, so small that a cell takes ten minutes of a busy core."""

    game_name: str = "frontier"
    nodes: int = 10
    edges: int = 12
    lanes: tuple[int, ...] = (1, 2, 4)
    shares: tuple[float, ...] = (0.25, 0.25, 0.5)
    layers: int = 4
    steps: int = 5000
    stage: int = 1000
    omega: str = "group_think"


class CellTrainer(StudyTrainer):
    """The study's trainer with embeddings of lanes and the rotation of Hogwild!."""

    recipe: CellRecipe

    def __init__(self, recipe: CellRecipe) -> None:
        super().__init__(recipe)
        rng = np.random.default_rng([recipe.seed, 1 << 43])
        config, n = self.config, max(recipe.lanes)
        extra: dict[str, tuple[int, int]] = {}
        if recipe.lane_embed:
            extra["lane_embed"] = (n, config.width)
        if recipe.lane_kv:
            both = 2 * config.kv_heads * config.head_dim
            extra |= {f"lane_kv.{layer}": (n, both) for layer in range(config.layers)}
        for name, shape in extra.items():
            drawn = rng.normal(0, 0.02, shape).astype(np.float32)
            self.state["weights"][name] = mx.array(drawn)
        self.optimizers["weights"].init(self.state["weights"])
        # The row of a table of lanes, below which a row of zeros is put: shared rows get nothing.
        self.row_of = {
            n: mx.array((self.game.coordinates(n)[1] + 1).astype(np.int32)) for n in recipe.lanes
        }
        self.views = {n: self._view(n) for n in recipe.lanes} if recipe.view_order else {}

    def mask_of(self, n: int) -> LaneMask:
        """As `Trainer.mask_of`, or that of a schedule."""
        if self.recipe.game_name != "frontier" and self.recipe.schedule != "joint":
            return self.game.mask(n)
        return super().mask_of(n)

    def _view(self, n: int) -> Plan:
        positions, lanes = self.game.coordinates(n)
        mask = self.mask_of(n)
        places = Places(positions, lanes, positions, lanes)
        return make_plan(self.config, Hogwild(), mask, places, array=mx.array)

    def plan_of(self, n: int, omega: mx.array) -> Plan:
        """As `Trainer.plan_of`, or the plan of Hogwild!."""
        return self.views[n] if self.recipe.view_order else super().plan_of(n, omega)

    def ops_of(self, weights: dict[str, mx.array], n: int) -> Ops:
        """As `Trainer.ops_of`, with the embeddings of lanes that there are."""
        rows = self.row_of[n]

        def lane(name: str) -> mx.array:
            table = weights[name]
            return mx.concatenate([mx.zeros_like(table[:1]), table])[rows]

        def embed(params: dict[str, mx.array], tokens: mx.array) -> mx.array:
            return OPS.embed(params, tokens) + lane("lane_embed")

        def linears(params: Any, names: Any, x: mx.array) -> list[mx.array]:
            out = OPS.linears(params, names, x)
            if names[-1].endswith("v_proj"):
                q, k, v = out
                added = lane(f"lane_kv.{names[-1].split('.')[2]}")
                half = k.shape[-1]
                out = [q, k + added[:, :half], v + added[:, half:]]
            return out

        ops = super().ops_of(weights, n)
        ops = ops._replace(embed=embed) if self.recipe.lane_embed else ops
        return ops._replace(linears=linears) if self.recipe.lane_kv else ops

    def export(self, folder: Any) -> None:
        """Writes nothing (above); the state is saved."""


@dataclass(frozen=True)
class GameCell:
    """A cell: its name, what it is, and what it changes in the common recipe."""

    name: str
    says: str
    changes: dict[str, Any] = field(default_factory=dict)

    def recipe(self, base: CellRecipe, seed: int) -> CellRecipe:
        """The recipe of one run of this cell."""
        return replace(base, seed=seed, **self.changes)


PLAIN = {"omega": "none", "learn_omega": False}
APART = (
    GameCell("tags", "the first token only", PLAIN),
    GameCell("ntk", "Omega, NTK", {"omega": "ntk", "learn_omega": False}),
    GameCell("learned", "Omega, learned", {"omega": "group_think", "learn_omega": True}),
    GameCell(
        "virtual",
        "virtual position (Group Think)",
        {"omega": "group_think", "learn_omega": False, "prompt_lane": "0"},
    ),
    GameCell("input", "input embedding", {**PLAIN, "lane_embed": True}),
    GameCell("kv", "key and value embedding", {**PLAIN, "lane_kv": True}),
    GameCell("view", "view order (Hogwild!)", {**PLAIN, "view_order": True}),
    GameCell(
        "stream", "lag 1, input embedding (Multi-Stream)", {**PLAIN, "lane_embed": True, "lag": 1}
    ),
    GameCell(
        "parathinker",
        "one vector a layer, in every key and value (ParaThinker)",
        {**PLAIN, "extra": ("lane_kv",)},
    ),
    GameCell(
        "bridge",
        "reading within the step only (Bridge)",
        {**PLAIN, "extra": ("bridge",), "bridge_width": 24, "visibility": "bridge"},
    ),
    GameCell(
        "p-match",
        "as many parameters as bridge, no reading",
        {**PLAIN, "extra": ("p_match",), "bridge_width": 24, "visibility": "independent"},
    ),
)
LIVE = (
    GameCell("joint", "lanes that read each other", {}),
    GameCell("independent", "the same texts, without reading", {"visibility": "independent"}),
    GameCell(
        "fork", "a fixed split, lanes that do not read",
        {"visibility": "independent", "schedule": "fork"},
    ),
    GameCell("one-tag", "lanes that read each other, one first token for all", {"one_tag": True}),
    GameCell("alone", "one lane, nothing else trained", {"lanes": (1,), "shares": (1.0,)}),
)  # fmt: skip
TIMED = (
    GameCell("alone", "one lane, nothing else trained", {"lanes": (1,), "shares": (1.0,)}),
    GameCell("joint", "joint from the first token", {}),
    GameCell("late", "alone, then every lane reads all", {"schedule": "late"}),
    GameCell("tree", "alone, then in pairs (tree)", {"schedule": "tree"}),
    GameCell("reuse", "fork-join, one lane reads the rows (reuse)", {"schedule": "reuse"}),
    GameCell("reread", "fork-join, one lane rereads the texts", {"schedule": "reread"}),
    GameCell("copy-reuse", "reuse, but this lane first copies a word", {"schedule": "reuse-copy"}),
    GameCell(
        "copy-reread", "reread, but this lane first copies a word", {"schedule": "reread-copy"}
    ),
)
# Found by trying it with `ntk` alone, on the seeds that had failed (README, table 4).
SEARCHED = CellRecipe(
    omega="none", learn_omega=False, lanes=(1, 2, 4), shares=(0.3, 0.3, 0.4), rows=256,
    steps=3000, stage=500,
)  # fmt: skip
TABLES: dict[str, tuple[tuple[GameCell, ...], CellRecipe]] = {
    "apart": (APART, SEARCHED),
    "frontier": (LIVE, FrontierRecipe()),
    "schedules": (TIMED, replace(SEARCHED, omega="ntk")),
}


def chosen(table: str, names: list[str] | None) -> list[GameCell]:
    """The cells of these names; None: all. Raises TinylaneError for a name that there is not."""
    cells = {cell.name: cell for cell in TABLES[table][0]}
    for name in names or ():
        if name not in cells:
            raise TinylaneError(f"cell {show(name)}; expected some of {', '.join(cells)}")
    return [cell for cell in cells.values() if names is None or cell.name in names]
