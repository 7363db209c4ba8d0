"""Lanes for any model of transformers: `generate`, `stream` and `lanes`.

`lanes(model, tokenizer)` makes a `tinylane.Model` of it. Everything that takes a model takes this
one too: `tinylane.generate`, `tinylane.Decoding`, `tinylane.mode`. Needs torch and transformers:
`pip install "tinylane[hf]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import NoneType
from typing import Any

from tinylane.core.errors import TinylaneError, of_kind
from tinylane.methods.decoding import Decoding

if find_spec("torch") is None or find_spec("transformers") is None:
    raise TinylaneError('tinylane.hf needs torch and transformers: pip install "tinylane[hf]"')

from tinylane.checkpoints import extras
from tinylane.core.result import Result, Step
from tinylane.hf.model import HFModel, lanes
from tinylane.methods import method as find
from tinylane.methods import prepare, start
from tinylane.methods.prompt import Prompt, Settings

__all__ = ["HFModel", "generate", "lanes", "stream"]

_OF_MODE = ("slot", "omega", "scale", "prompt_lane", "visibility", "lag")


def generate(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    lanes: int = 4,
    method: str | None = None,
    *,
    on_step: Callable[[Step], None] | None = None,
    **settings: Any,
) -> Result:
    """Decode jointly with a model of transformers, or with what `lanes` made of one.

    tokenizer: of transformers, with a fast backend; None where the prompt is token ids. method: a
    name of `tinylane.methods`; None: independent lanes, or what the adapter of `lanes` says.
    settings: those of `tinylane.Decoding` (seed, max_tokens, sampler, stop ...), `options` of the
    method, and of joint lanes those of `tinylane.mode` (omega, visibility ...). Where the logits
    agree, the same seed draws the same tokens as `tinylane.generate` does. Raises TinylaneError as
    those do, and for a model whose lanes would be wrong.
    """
    of_kind("on_step", on_step, (Callable, NoneType), "a function")
    decoding = _decoding(model, tokenizer, prompt, lanes, method, settings)
    for step in decoding:
        if on_step is not None:
            on_step(step)
    return decoding.result()


def stream(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    lanes: int = 4,
    method: str | None = None,
    **settings: Any,
) -> Iterator[Step]:
    """As `generate`, one `Step` at a time."""
    yield from _decoding(model, tokenizer, prompt, lanes, method, settings)


def _decoding(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    n: int,
    method: str | None,
    settings: dict[str, Any],
) -> Decoding:
    wrapped = model if isinstance(model, HFModel) else lanes(model, tokenizer)
    options = dict(settings.pop("options", None) or {})
    options |= {name: settings.pop(name) for name in _OF_MODE if name in settings}
    if method is None:
        if options:
            raise TinylaneError(f"{next(iter(options))} is given without a method; give method")
        return Decoding(wrapped, prompt, lanes=n, **settings)
    for name in ("lane_rope", "lane_mask", "schedule"):
        if settings.get(name) is not None:
            raise TinylaneError(f"method {method} decides {name}; leave one of them out")
    needs = find(method).needs
    if needs in extras.OUT:  # a layer of its own
        raise TinylaneError(
            f"method {method} needs {needs}, for which a model of transformers has no place; load "
            "a checkpoint that has it by tinylane.load"
        )
    limit = settings.pop("max_tokens", Settings.max_tokens)
    most = max(limit) if isinstance(limit, (list, tuple)) else limit
    setup = prepare(wrapped, method, n, most, options)
    return start(wrapped, prompt, setup, max_tokens=limit, **settings)
