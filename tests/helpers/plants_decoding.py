"""Bugs in the cache and in joint decoding."""

from __future__ import annotations

from typing import Any

from planting import Plant, instead, swap

from tinylane.core import decoding, sampling


def one_stream(old: Any) -> Any:
    return lambda seed, lane, index: old(seed, 0, index)


def stream_by_count(old: Any) -> Any:
    """One generator for the batch: a lane's draw depends on the number of live lanes."""

    def draw(self: Any, live: Any, known: bool = True) -> Any:
        real, place = decoding.uniform, {x.index: k for k, x in enumerate(reversed(live))}
        try:
            decoding.uniform = lambda s, m, i: real(s, place[m] * len(live), i)
            return old(self, live, known)
        finally:
            decoding.uniform = real

    return draw


DECODING = [
    # the cache
    Plant(
        "a stale offset after growth",
        "steps",
        swap(
            "cache._grown",
            "new[:, :used, :] = buffer[:, :used, :]",
            "new[:, 1:used, :] = buffer[:, 1:used, :]",
        ),
    ),
    Plant(
        "rows written one early",
        "steps",
        swap(
            "cache.LaneCache.put",
            "[:, start:stop, :] = new",
            "[:, max(start - 1, 0) : max(start - 1, 0) + stop - start, :] = new",
        ),
    ),
    Plant(
        "spare rows of the buffer handed out",
        "steps",
        swap(
            "cache.LaneCache.put", "buffers[layer][:, :stop, :])", "buffers[layer][:, -stop:, :])"
        ),
    ),
    Plant(
        "lanes of cached rows not kept",
        "steps",
        swap("cache.LaneCache.commit", "[self.lanes, lanes]", "[self.lanes, lanes * 0]"),
    ),
    Plant(
        "cached coordinates behind the new ones",
        "steps",
        swap(
            "cache.LaneCache.places",
            "np.concatenate([self.positions, positions])",
            "np.concatenate([positions, self.positions])",
        ),
    ),
    Plant(
        "fork without turning the keys",
        "fork",
        swap("cache.LaneCache.fork", "if not np.array_equal(after, before):", "if False:"),
    ),
    Plant(
        "fork turns the wrong way",
        "fork",
        swap("cache.LaneCache.fork", "(after - before)", "(before - after)"),
    ),
    Plant(
        "fork turns the values too",
        "fork",
        swap(
            "cache.LaneCache.fork",
            "keys = rotate(keys, *(self.model.array(t) for t in turn))",
            "keys, values = (rotate(x, *map(self.model.array, turn)) for x in (keys, values))",
        ),
    ),
    Plant(
        "fork keeps the source's lane",
        "fork",
        swap("cache.LaneCache.fork", "np.full_like(rows, target)", "np.full_like(rows, source)"),
    ),
    Plant(
        "drop leaves a row",
        "drop",
        swap(
            "cache.LaneCache.drop",
            "self.keep(self.lanes != lane)",
            "self.keep((self.lanes != lane) | (np.cumsum(self.lanes == lane) == 1))",
        ),
    ),
    Plant(
        "drop forgets coordinates, not rows",
        "drop",
        swap("cache.LaneCache.keep", "buffer[:, index, :]", "buffer"),
    ),
    Plant(
        "trim off by one",
        "trim",
        swap("cache.LaneCache.trim", "self.positions < position", "self.positions <= position"),
    ),
    Plant(
        "a copy that shares its buffers",
        "copy",
        swap("cache.LaneCache.copy", "twin.keep(np.isin(self.lanes, kept), force=True)", "pass"),
    ),
    # decoding
    Plant(
        "a chunk parts a position",
        "decoding",
        swap("decoding.Loop._forward", "while stop < len(rows) and", "while False and"),
    ),
    Plant(
        "rows fed lane by lane",
        "decoding",
        swap(
            "decoding.Loop._forward",
            "rows = sorted(rows, key=itemgetter(1))",
            "rows = list(rows)",
        ),
    ),
    Plant(
        "a lane goes on after its end token",
        "decoding",
        swap("life.Life._stops", "token in self.ends or self._say", "self._say"),
    ),
    Plant(
        "an end token is fed to the others",
        "decoding",
        swap("decoding.Loop.step", "if reason is None:", "if True:"),
    ),
    Plant(
        "a finished lane is forgotten",
        "decoding",
        swap(
            "decoding.Loop._end",
            "lane.finish_reason = reason",
            "lane.finish_reason = reason; self.cache.drop(lane.index)",
        ),
    ),
    Plant(
        "one random stream for all lanes",
        "decoding",
        lambda patch: patch.setattr(decoding, "uniform", one_stream(sampling.uniform)),
    ),
    Plant(
        "random streams by place among the living",
        "decoding",
        instead(decoding.Loop, "_draw", stream_by_count),
    ),
    Plant(
        "lane prompts begin together",
        "decoding",
        swap("decoding.Loop._begin", "(token, at + k,", "(token, len(self.prompt) + k,"),
    ),
    Plant(
        "lane prompts end one early",
        "decoding",
        swap("decoding.Loop._begin", "(token, at + k,", "(token, at - 1 + k,"),
    ),
    Plant(
        "penalty without the prompt",
        "decoding",
        swap(
            "decoding.Loop._draw",
            "[*self.prompt, *self._written(lane)]",
            "self._written(lane)",
        ),
    ),
    Plant(
        "Omega dropped for joint lanes too",
        "decoding",
        swap("model.Model.rope", "mask is not None and mask.alone and", "mask is not None and"),
    ),
    Plant(
        "the clock ticks twice a step",
        "decoding",
        swap(
            "decoding.Loop.step",
            "= self.steps + 1, self.clock + 1",
            "= self.steps + 1, self.clock + 2",
        ),
    ),
    # what only a machine or a script gets to
    Plant(
        "a loaded cache has keys and values exchanged",
        "machine",
        swap(
            "files.cache_file.load_cache",
            '(("keys", cache.keys), ("values", cache.values))',
            '(("values", cache.keys), ("keys", cache.values))',
        ),
    ),
    Plant(
        "a forked lane forgets the token that it has not fed yet",
        "script",
        swap("life.Life.fork", "if lane == source]", "if lane == m]"),
    ),
    Plant(
        "a forked lane forgets what it wrote",
        "script",
        swap(
            "life.Life.fork",
            "forked=(source, self.clock)",
            "forked=(source, self.clock), tokens=[]",
        ),
    ),
    Plant(
        "a forked lane shares its parent's list of tokens",
        "script",
        swap("life.Life.fork", "index=m,", "index=m, tokens=parent.tokens,"),
    ),
    Plant(
        "a dropped lane's last token is fed all the same",
        "script",
        swap("life.Life.drop", "if row[2] != lane]", "]"),
    ),
    Plant(
        "a dropped lane stays in the cache",
        "script",
        swap("life.Life.drop", "self.cache.drop(lane)", "pass"),
    ),
    Plant(
        "a lane that joins late draws as if it had begun with the others",
        "script",
        swap("decoding.Loop._draw", "lane.index, len(lane.tokens))", "lane.index, self.steps)"),
    ),
    Plant(
        "a lane that joins late stands at the end of the prompt",
        "script",
        swap("decoding.Loop._begin", "(token, at + k,", "(token, len(self.prompt) + k,"),
    ),
    Plant(
        "a lane that joins without a prompt draws from another's logits",
        "script",
        swap(
            "decoding.Loop._begin",
            "self._logits[lane.index] = self._prompt_logits",
            "self._logits[lane.index] = next(iter(self._logits.values()), self._prompt_logits)",
        ),
    ),
]
