"""Bugs in segments of text and schedules: what laws 14 to 18 and 22 to 25 must catch."""

from __future__ import annotations

from planting import Plant, instead, swap
from plants_decoder import separate_softmax

from tinylane.core import decoder

VISIBLE, ANGLES, FORK = "lanes.LaneMask.visible", "lanes.LaneRoPE.angles", "cache.LaneCache.fork"
READS = "self.visibility[m, n] &"
BY_LANE = swap(ANGLES, "* omega", "* (omega + 0.1)")

SEGMENTS = [
    Plant(
        "a token that another lane draws in the same step is seen",
        "chain rule",
        swap(VISIBLE, "(age >= self.lag)", "(age >= self.lag - 1)"),
    ),
    Plant(
        "a row sees the token that is drawn from it",
        "chain rule",
        swap(VISIBLE, "age >= 0, other)", "age >= -1, other)"),
    ),
    Plant("paths told apart by an angle", "permuted paths", BY_LANE),
    Plant(
        "the summary does not read the first path",
        "permuted paths",
        swap(VISIBLE, READS, "self.visibility[m, n] & ((n > 0) | (m < 2)) &"),
    ),
    Plant(
        "a path reads the paths before it",
        "fork join",
        swap(VISIBLE, READS, "(self.visibility[m, n] | (m > n)) &"),
    ),
    Plant(
        "the summary reads the first token of a path only",
        "fork join",
        swap(VISIBLE, READS, "self.visibility[m, n] & (key_positions == key_positions.min()) &"),
    ),
    Plant(
        "the last token of a path is not read",
        "one path",
        swap(VISIBLE, "(age >= self.lag)", "(age > self.lag + 1)"),
    ),
    Plant("a path stands beside the text", "one path", BY_LANE),
    Plant(
        "what is read again is read in the cache too",
        "reread",
        swap(VISIBLE, READS, "(self.visibility[m, n] | (m > n)) &"),
    ),
    Plant(
        "who rereads does not see the prompt",
        "reread",
        swap(VISIBLE, "(n == SHARED) | (n == m), age >= 0", "n == m, age >= 0"),
    ),
    Plant(
        "sealed, but the block's begin is not moved",
        "seal",
        swap(
            "hogwild.Hogwild.views",
            "blocks, block_of = blocks[by_rank], np.argsort(by_rank)[block_of]",
            "pass",
        ),
    ),
    Plant(
        "sealing turns what is cached",
        "seal",
        swap(
            "life.Life.seal",
            'self._end(old, "sealed")',
            'self._end(old, "sealed"); self.cache.keys = [-k for k in self.cache.keys]',
        ),
    ),
    Plant(
        "an author does not read what it sealed",
        "seal",
        swap("life.Life.seal", "self._grow(m, lane, [lane])", "self._grow(m, lane, [])"),
    ),
    Plant(
        "readers of a sealed lane do not read on",
        "seal",
        swap("life.Life._grow", "[*read, *more], readers)", "[*read, *more], {})"),
    ),
    Plant(
        "blocks weighed alike, not by their log-sum-exp",
        "blocks merge",
        instead(decoder, "attention", separate_softmax),
    ),
    Plant(
        "one query for all blocks",
        "blocks merge",
        swap("decoder.scores", "q @ keys", "queries[0] @ keys"),
    ),
    Plant(
        "mlx: one query for all blocks",
        "blocks merge",
        swap("mlx_ops.blocks", "q @ keys[..., a:b, :]", "folded[0] @ keys[..., a:b, :]"),
        "mlx float32",
    ),
    Plant(
        "log-probabilities recorded behind the temperature",
        "rollout",
        swap(
            "sampling.Sampler.draw",
            "at(logits) - logsumexp(logits)",
            "(at(logits) - logsumexp(logits)) / (self.temperature or 1)",
        ),
    ),
    Plant(
        "tokens fed one position late",
        "rollout",
        swap(
            "decoding.Loop.step",
            "self._feed.append((token, place, lane.index))",
            "self._feed.append((token, place + 1, lane.index))",
        ),
    ),
    Plant(
        "a lane that joins is read from the beginning on, by rows fed before",
        "rollout",
        swap("life.Life._unfed", "default=self.position(lane))", "default=0) * 0"),
    ),
    Plant(
        "a moved cache stays where it was",
        "moved cache",
        swap(FORK, "if not np.array_equal(after, before):", "if False:"),
    ),
    Plant("moved the wrong way", "moved cache", swap(FORK, "(after - before)", "(before - after)")),
    Plant(
        "values moved too",
        "moved cache",
        swap(
            FORK,
            "keys = rotate(keys, *(self.model.array(t) for t in turn))",
            "keys, values = (rotate(x, *map(self.model.array, turn)) for x in (keys, values))",
        ),
    ),
    Plant(
        "moved with the attention factor once more",
        "moved cache",
        swap(
            FORK,
            "table((after - before)[None, :], dtype=host)",
            "table((after - before)[None, :], import_module('tinylane.core.rope').frequencies("
            "self.model.config.rope, self.model.config.head_dim)[1], dtype=host)",
        ),
    ),
]
