"""The parameters for lanes (`tinylane.checkpoints.extras`) as arrays that MLX derives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from tinylane.checkpoints import extras
from tinylane.checkpoints.side import LANE_EMBED
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import MAX_LANES


def check_kinds(kinds: Sequence[str], width: int, lanes: int = 0) -> None:
    """Raise TinylaneError for kinds, a width of the bridge, or lanes of tables that cannot be."""
    for kind in kinds:
        if kind not in extras.KINDS:
            names = ", ".join(extras.KINDS)
            raise TinylaneError(f"--extra {show(kind, 40)}; expected some of {names}")
    if width and not {*extras.OUT} & {*kinds}:
        raise TinylaneError("--bridge-width is of --extra bridge, p_match or lace; give one")
    if lanes and not {"lane_embed", "lane_kv"} & {*kinds}:
        raise TinylaneError("--extra-lanes is of --extra lane_embed or lane_kv; give one")
    if not 0 <= lanes <= MAX_LANES:
        raise TinylaneError(f"--extra-lanes is {lanes}; expected 1 to {MAX_LANES}")
    if width < 0:
        raise TinylaneError(f"--bridge-width is {width}; expected 1 or more")


def begin(
    config: ModelConfig,
    kinds: Sequence[str],
    lanes: int,
    width: int,
    seed: int,
    loaded: Mapping[str, np.ndarray] | None = None,
    table_std: float = 0.0,
) -> dict[str, mx.array]:
    """The arrays of these kinds before the first step, as the decoder takes them, float32.

    loaded: the adapter's, in its layout; a kind that it has goes on from there. Otherwise as
    `extras.start`. Raises TinylaneError for a bridge of a width that its heads do not divide.
    """
    held = {name: x for name, x in (loaded or {}).items() if extras.is_extra(name)}
    have = extras.kinds_of(held)
    new = [kind for kind in kinds if kind not in have]
    made = extras.start(config, new, lanes, width, seed, table_std)
    extras.check(config, {name: extras.turned(name, x).shape for name, x in made.items()})
    for kind in {*kinds} & {*have}:
        mine = {name: x for name, x in held.items() if f".{kind}." in name}
        made |= {name: extras.turned(name, x) for name, x in mine.items()}
    return {name: mx.array(np.ascontiguousarray(x)) for name, x in made.items()}


def still(params: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The same, but the shared prompt's row of the input's table takes no gradient and stays 0."""
    if LANE_EMBED not in params:
        return dict(params)
    table = params[LANE_EMBED]
    return {**params, LANE_EMBED: mx.concatenate([mx.stop_gradient(table[:1]), table[1:]])}


def in_file(params: Mapping[str, mx.array]) -> dict[str, np.ndarray]:
    """Those of `params` that are for lanes, as an adapter has them."""
    return {
        name: np.ascontiguousarray(extras.turned(name, np.asarray(x.astype(mx.float32))))
        for name, x in params.items()
        if extras.is_extra(name)
    }
