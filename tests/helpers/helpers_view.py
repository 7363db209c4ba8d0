"""Runs to view: decoded by small random models, with late lanes, drops, forks and odd texts."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
from helpers_browser import Visit
from helpers_lanes import FREE, ids, model_of, omega, small
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.result import Lane, Result
from tinylane.core.sampling import Sampler
from tinylane.files.io import Fields
from tinylane.methods.decoding import Decoding
from tinylane.view.again import read_rotation
from tinylane.view.attention import attention_weights
from tinylane.view.replay import rows_of
from tinylane.view.replay_record import Record, Silence, View
from tinylane.view.run_file import Run, _mask

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=2</script>",
    "<img src=x onerror=window.hacked=3>",
    "<!--",
    "-->",
    "&lt;b&gt;",
    "'\"><svg/onload=window.hacked=4>",
    "javascript:window.hacked=5",
    "\u202eevil\u202c",
    "\u2066isolated\u2069",
    "\x1b[31mred",
    "\x00\x07\x7f\x9b",
    "\u2028\u2029",
    "line\nbreak\ttab",
    "${7*7}{{7*7}}",
    "]]>",
    "__proto__",
    "עברית",
    "العربية",
    "e\u0301\u0327\u0327\u0327",
    "👨‍👩‍👧‍👦",
    "x" * 500,
    "\\u003cscript>",
]


def as_run(model: Any, result: Any, **more: Any) -> Run:
    """A run that was never in a file."""
    c = result.settings
    mask = _mask(Fields(c))
    rope = read_rotation(Fields(c), mask.n)
    names = {"identity": model.identity, "version": "0"}
    names |= {"backend": model.backend, "dtype": model.dtype}
    given = {"lane_rope": rope, "lane_mask": mask, "sampler": Sampler(**c["sampler"])}
    return Run(result=result, seed=c["seed"], **{**names, **given, **more})


def decoded(
    kind: str = "joint", backend: str = "numpy", dtype: str = "float64", **more: Any
) -> Any:
    """(model, run). kind: joint, lag, hogwild, group_think, star, independent, events, fork; life:
    lanes that wait, are sealed, given, join behind all; lives: and are forked."""
    model = more.pop("model", None) or model_of(backend, dtype)
    masks = {
        "lag": LaneMask.joint(4, lag=2),
        "star": LaneMask.star(4),
        "independent": LaneMask.independent(4),
        "fork": LaneMask.star(4),
    }
    ropes = {"hogwild": Hogwild(), "group_think": LaneRoPE.group_think(model.theta, 40, 0)}
    given = {
        "lanes": 3,
        "lane_prompts": [[1], [2, 5], []],
        "max_tokens": [6, 3, 5],
        "lane_rope": ropes.get(kind) or omega(model),
        "lane_mask": masks.get(kind) or LaneMask.joint(4),
        "sampler": FREE,
        "seed": 4,
        **more,
    }
    decoding = Decoding(model, ids(5), **given)
    if kind == "events":
        decoding.step()
        decoding.step()
        decoding.join([4, 5], max_tokens=4)
        decoding.step()
        decoding.drop(0)
    if kind in ("life", "lives"):
        decoding.step()
        decoding.pause(1)
        decoding.join([4, 5], sees="all", max_tokens=4)
        decoding.step()
        decoding.step()
        decoding.resume(1)
        decoding.seal(0)
        decoding.give(2, [7, 8])
        decoding.step()
        decoding.read(1, 2, False)
        if kind == "lives":
            decoding.fork(2, max_tokens=7)
        decoding.drop(3)
    if kind == "fork":
        decoding.step()
        decoding.step()
        decoding.fork(1, max_tokens=5)
    list(decoding)
    return model, as_run(model, decoding.result())


def dense(model: Any, run: Run) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
    """(layers, H, T, T) weights of one pass over all rows; (position, lane) -> row of it."""
    rows = rows_of(run, model)
    w = attention_weights(
        model, rows.tokens, rows.positions, rows.lanes, run.lane_rope, rows.history
    )
    places = zip(rows.positions.tolist(), rows.lanes.tolist(), strict=True)
    return w, {place: k for k, place in enumerate(places)}


def word_tokenizer(words: list[str]) -> Tokenizer:
    """A tokenizer with a token for each text, special ones first."""
    vocab = {word: k for k, word in enumerate(["<unk>", "<end>", *words])}
    core = Core(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Fuse()
    core.add_special_tokens(["<unk>", "<end>"])
    return Tokenizer(core, {"eos_token": "<end>"})


def hostile(lanes: int = 3, tokens: int = 16, seed: int = 1) -> tuple[Any, Run]:
    """A run of a model whose every word is a trap."""
    tokenizer = word_tokenizer(HOSTILE)
    model = small(vocab=len(HOSTILE) + 2, tokenizer=tokenizer)
    more = {"lane_prompts": [[2], [3], [4]][:lanes], "max_tokens": tokens, "lanes": lanes}
    free = Sampler(temperature=1.0, logit_bias={1: -np.inf})
    decoding = Decoding(
        model, [2, 10, 13], lane_mask=LaneMask.joint(lanes), sampler=free, seed=seed, **more
    )
    list(decoding)
    return model, as_run(model, decoding.result())


def large(lanes: int, tokens: int, layers: int, heads: int, silences: bool = True) -> Record:
    """A record that deflate can do nothing with: all numbers random, every token its own text."""
    rng = np.random.default_rng(0)
    vocab, P, keys, few = 30_000, 64, 8, 2
    Q, R = lanes * tokens, P + lanes * tokens
    drawn = rng.integers(0, vocab, (lanes, tokens))
    made = [
        Lane(m, [], P, tokens, drawn[m].tolist(), [-1.0] * tokens, "length") for m in range(lanes)
    ]
    result = Result(rng.integers(0, vocab, P).tolist(), made, tokens, 0.0, 0.0, {})
    mask, rope = LaneMask.joint(lanes), LaneRoPE(np.zeros(4))
    run = Run(result, rope, mask, model_source="m", identity="i", backend="numpy", dtype="float32")

    def view(layer: int | None, head: int | None, k: int) -> View:
        shares = rng.dirichlet(np.ones(lanes + 1), Q).astype(np.float32)
        weights = np.sort(rng.random((Q, k)), axis=1)[:, ::-1] / k
        return View(layer, head, shares, rng.integers(0, R, (Q, k)).astype(np.int32), weights)

    names = [(a, b) for a in range(layers) for b in [None, *range(heads)]]
    row = np.arange(P, R)
    written = drawn.reshape(-1)
    silent = [
        Silence(m, *rng.integers(0, vocab, (2, Q)), -rng.random(Q), rng.random(Q))
        for m in range(lanes * silences)
    ]  # fmt: skip
    return Record(
        run, np.repeat(np.arange(lanes), tokens), row, row - 1, np.repeat(np.arange(lanes), tokens),
        -5 * rng.random(Q), 0.0, written, written, rng.dirichlet(np.ones(lanes + 1), (layers, heads,
        lanes)), [view(None, None, keys), *(view(a, b, few) for a, b in names)], silent,
    )  # fmt: skip


def data_of(html: str) -> dict[str, Any]:
    """The page's data, found as a browser would: by its element."""

    class Finder(HTMLParser):
        inside = False
        text = ""

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.inside = tag == "script" and dict(attrs).get("id") == "data"

        def handle_data(self, data: str) -> None:
            self.text += data if self.inside else ""

    finder = Finder()
    finder.feed(html)
    return json.loads(finder.text)


def unpacked(packed: list[Any]) -> np.ndarray:
    """The numbers, by another way than the page's."""
    width, count, text = packed
    planes = zlib.decompress(base64.b64decode(text))
    assert len(planes) == width * count
    return np.array(
        [
            sum(planes[p * count + k] << 8 * p for p in range(width))
            for k in range(count)
        ]
    )  # fmt: skip


def ready(seen: Visit) -> Any:
    """The page, when its script has drawn all of it."""
    seen.page.wait_for_selector("body[data-ready]")
    return seen.page
