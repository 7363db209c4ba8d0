"""A record of a replayed run as one HTML file that needs nothing else: no network, no server.

Text goes into the page as data and is shown as text. Numbers are packed: rounded to 8 or 16 bits
(`_packed`), split into planes of bytes, deflated, in base64; the page's JavaScript unpacks them.
Layers and heads that listened to other lanes most come first, as many as fit into `size`; the run's
averages of every head are always there. The page says what was left out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.files.display import counted, printable
from tinylane.view.events import BEGIN, events_of, given_tokens, words
from tinylane.view.inlined import inlined
from tinylane.view.palette import page_css
from tinylane.view.replay_record import Record, View
from tinylane.view.replay_words import about, first_shown, sentences

if TYPE_CHECKING:
    from tinylane.checkpoints.tokenizer import Tokenizer

SIZE = 2.0  # MB (10**6 bytes)
LONGEST = 120  # characters of a token that are shown
PART = "·"  # stands for a token that is a part of a character, before the last part of it
EVENTS = 1000  # that are listed
STYLES = ("shared/look.css", "shared/parts.css", "page/replay.css")
PER_NAT = 1000  # log-probabilities and KL are kept to a thousandth of a nat


def page(
    record: Record, tokenizer: Tokenizer | None = None, size: float = SIZE, task: str = ""
) -> tuple[str, str]:
    """The HTML file, and a sentence that says how much of the attention it holds.

    tokenizer: to show tokens as text; None shows their ids. task: what the lanes were to do, in a
    sentence or two. size: MB (10**6 bytes) that layers and heads may fill the page up to; the mean
    of all layers and heads is there even if it is larger.
    """
    texts = Texts(record, tokenizer)
    data = _data(record, texts) | {"task": printable(task)}
    css = page_css() + "".join(map(_asset, STYLES))
    script = inlined("page/replay.js", _asset)
    frame = _asset("page/replay.html")
    mean = _view(record.views[0], 65535)
    room = size * 1e6 - 4096 - sum(map(len, (frame, css, script, _json(data), _json([mean]))))
    chosen = {}
    for k in ranked(record):
        packed = _view(record.views[k], 255)
        room -= len(_json(packed)) + 1
        if room < 0:
            break
        chosen[k] = packed
    note = _kept(record, len(chosen))
    data |= {"views": [mean, *(chosen[k] for k in sorted(chosen))], "kept": note}
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "title": html.escape(data["title"]),
        "digest": digest,
        "css": css,
        "script": script,
        "data": _json(data),
    }
    for name, text in parts.items():
        before, mark, after = frame.partition(f"<!--{name}-->")
        assert mark, name
        frame = before + text + after
    return frame, note


def _asset(name: str) -> str:
    """A file of this folder."""
    return resources.files("tinylane.view").joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that no HTML parser takes for a tag; ASCII, so its length is its size."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _data(record: Record, texts: Texts) -> dict[str, Any]:
    lanes, run = record.lanes, record.run
    events = events_of(run.result)
    begun = {event["lane"]: event["step"] for event in events if event["event"] in BEGIN}
    gone = {event["lane"]: event["step"] for event in events if event["event"] == "drop"}
    given = given_tokens(events, lanes)
    places = zip(
        record.source.tolist(), (k for x in lanes for k in range(len(x.tokens))), strict=True
    )
    names = texts.names(record.likeliest)
    silences = [
        {
            "lane": s.lane,
            # 0: as it was; else the number of its text, and one
            "likeliest": _packed(
                np.where(s.likeliest == record.likeliest, 0, texts.names(s.likeliest) + 1)
            ),
            "drawn": _packed(np.where(s.drawn == record.tokens, 0, texts.names(s.drawn) + 1)),
            "logprob": _packed(_nats(-s.logprobs)),
            "kl": _packed(_nats(s.kl)),
        }
        for s in record.silences
    ]
    layers, heads = record.heard.shape[:2]
    return {
        "format": "tinylane view 1",
        "title": f"Replay of {counted(record.n, 'lane')}, {counted(len(record.of), 'token')}",
        "sentences": sentences(record, texts.shown),
        "first": first_shown(record),
        "about": about(record),
        "ids_only": texts.ids_only,
        "prompt": len(run.result.prompt),
        "lanes": [
            {
                "given": len(lane.prompt),
                "tokens": len(lane.tokens),
                "start": lane.start,
                "end": None if lane.finish_reason is None else printable(lane.finish_reason)[:40],
                "spans": lane.spans or [(0, lane.start, 0)][: len(lane.tokens)],
                "begun": begun.get(lane.index, 0),
                "forked": None if lane.forked is None else lane.forked[0],
                "copied": int(record.copied[record.of == lane.index].sum()),
                "follows": None if lane.forked else lane.follows,
                "dropped": gone.get(lane.index),
            }
            for lane in lanes
        ],
        "steps": int(record.steps.max()) + 1,
        "events": [[e["step"], e["lane"], printable(words(e))] for e in events[:EVENTS]],
        "events_left": max(len(events) - EVENTS, 0),
        "outside": [q for q, place in enumerate(places) if place in given],
        "layers": layers,
        "heads": heads,
        "heard": _packed(_scaled(record.heard, 65535)),
        "ids": _packed(texts.ids),
        "text": _packed(texts.number),
        "logprob": _packed(_nats(-record.logprobs)),
        "likeliest": _packed(names),
        "asked": _packed(record.asked),
        "silences": silences,
        "special": texts.special,
        "texts": texts.table,
    }


def ranked(record: Record) -> list[int]:
    """The layers and heads that were recorded, as places in `views`: those that listened to other
    lanes most come first."""
    shares = [record.to_others(k)[~record.copied].mean() for k in range(len(record.views))]
    order = lambda k: (-round(float(shares[k]), 9), record.views[k].head is not None, k)
    return sorted(range(1, len(record.views)), key=order)


def _view(view: View, top: int) -> dict[str, Any]:
    """A view's arrays; `top` is what 1 becomes."""
    keys = view.keys.astype(np.int64)
    return {
        "layer": view.layer,
        "head": view.head,
        "top": top,
        "keys_each": view.keys.shape[1],
        # Lane after lane and rank after rank: similar numbers side by side deflate better.
        "shares": _packed(_whole_shares(view.shares, top).T),
        "keys": _packed((keys + 1).T),
        "weights": _packed(_scaled(view.weights, top).T),
    }


def _kept(record: Record, chosen: int) -> str:
    """How much of the attention the page holds."""
    mean, views = record.views[0], len(record.views) - 1
    few = record.views[1].keys.shape[1] if views else 0
    everything = record.heard.shape[0] * (record.heard.shape[1] + 1)
    parts = [
        "For every token and the mean of all layers and heads, the page holds the shares of "
        f"attention to the prompt and to each lane, and the {mean.keys.shape[1]} largest keys with "
        "their weights; the other keys are only in the shares."
    ]
    if chosen:
        parts.append(
            f"It holds the same for {chosen} of {everything} layers and heads, with {few} keys "
            "each, rounded to 1/255."
        )
    if chosen < everything:
        parts.append(
            f"Of the other {everything - chosen} layers and heads, which listened to other lanes "
            "least, it holds only averages over the run."
        )
    return " ".join(parts)


# Numbers.


def _packed(values: np.ndarray) -> list[Any]:
    """Whole numbers >= 0, flat: bytes a number, how many, base64 of the deflated planes of bytes
    (the lowest first)."""
    flat = np.ascontiguousarray(values).reshape(-1).astype(np.int64)
    assert flat.min(initial=0) >= 0, flat.min()
    top = int(flat.max(initial=0))
    width = 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4
    planes = flat.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T
    return [width, flat.size, base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()]


def _scaled(values: np.ndarray, top: int) -> np.ndarray:
    return np.clip(np.rint(values.astype(np.float64) * top), 0, top).astype(np.int64)


def _whole_shares(shares: np.ndarray, top: int) -> np.ndarray:
    """Shares (Q, N + 1) in units of 1/top, so rounded that each row adds up to `top`."""
    exact = shares.astype(np.float64)
    exact = exact / exact.sum(axis=1, keepdims=True) * top
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(whole - exact, axis=1, kind="stable")  # the largest remainders first
    missing = top - whole.sum(axis=1)
    extra = np.arange(shares.shape[1]) < missing[:, None]
    np.put_along_axis(whole, order, np.take_along_axis(whole, order, axis=1) + extra, axis=1)
    return whole


def _nats(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values * PER_NAT), 0, 65535).astype(np.int64)


# Texts.


class Texts:
    """Every row's text, from a table of different texts; control characters are visible in it.

    ids, number: (R,) the token, and its place in `table`. Without a tokenizer, ids are the texts.
    """

    def __init__(self, record: Record, tokenizer: Tokenizer | None) -> None:
        self._tok, self._at, self.table = tokenizer, {"": 0}, [""]
        self.ids_only = tokenizer is None
        self._special: set[int] = set()
        run = record.run.result
        parts = [run.prompt, *([*lane.prompt, *lane.tokens] for lane in run.lanes)]
        self.ids = np.array([token for part in parts for token in part], dtype=np.int64)
        self.number = np.array([k for part in parts for k in self._stretch(part)], dtype=np.int64)

    @property
    def special(self) -> list[int]:
        """Places in `table` of special tokens' names, which are not texts that were written."""
        return sorted(self._special)

    def shown(self, token: int) -> str:
        """A token by itself, for a sentence."""
        return self.table[int(self.names(np.array([token]))[0])].strip() or PART

    def names(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens as they read by themselves: places in `table`."""
        different, which = np.unique(tokens, return_inverse=True)
        return np.array([self._alone(token) for token in different.tolist()], np.int64)[which]

    def _alone(self, token: int) -> int:
        if self._tok is None or self._tok.is_special(token):
            return self._name(token)
        text = self._tok.decode([token], skip_special=False)
        if "\ufffd" in text and self._tok.byte_level:  # a part of a character: its bytes
            text = self._tok.token_bytes(token).decode("utf-8", "backslashreplace")
        return self._place(text or PART)

    def _name(self, token: int) -> int:
        """A special token, one that the tokenizer lacks, or an id where there is no tokenizer."""
        if self._tok is None:
            return self._place(str(token))
        place = self._place(self._tok.core.id_to_token(token) or f"[{token}]")
        self._special.add(place)
        return place

    def _stretch(self, ids: list[int]) -> list[int]:
        """The texts of tokens that follow one another; a character counts to its last token."""
        if self._tok is None:
            return [self._name(token) for token in ids]
        stream, places, last = self._tok.stream(), [], -1
        for k, token in enumerate(ids):
            text = stream.push(token)
            if self._tok.is_special(token):
                places.append(self._name(token))
            else:
                places.append(self._place(text or PART))
                last = k
        rest = stream.flush()
        if rest and last >= 0:  # half a character at the end
            before = self.table[places[last]]
            places[last] = self._place(rest if before == PART else before + rest)
        return places

    def _place(self, text: str) -> int:
        text = printable(text)
        if len(text) > LONGEST:
            text = text[: LONGEST - 1] + "…"
        if text not in self._at:
            self._at[text] = len(self.table)
            self.table.append(text)
        return self._at[text]
