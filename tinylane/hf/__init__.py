"""Lanes for any model of transformers: `generate`, `stream` and `lanes`.

`lanes(model, tokenizer)` makes a `tinylane.Model` of it. Everything that takes a model takes this
one too: `tinylane.generate`, `tinylane.Decoding`, `tinylane.mode`. Needs torch and transformers:
`pip install "tinylane[hf]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from tinylane.core.errors import TinylaneError

if find_spec("torch") is None or find_spec("transformers") is None:
    raise TinylaneError('tinylane.hf needs torch and transformers: pip install "tinylane[hf]"')

from tinylane.core.decoding import Decoding, Settings
from tinylane.core.decoding import generate as decode
from tinylane.core.modes import mode
from tinylane.core.prompt import Prompt
from tinylane.core.result import Result, Step
from tinylane.hf.model import HFModel, lanes

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
    name of `tinylane.mode`; None: independent lanes, or what the adapter of `lanes` says. settings:
    those of `tinylane.Decoding` (seed, max_tokens, sampler, stop ...) and of `tinylane.mode`
    (omega, visibility ...). Where the logits agree, the same seed draws the same tokens as
    `tinylane.generate` does. Raises TinylaneError as those do, and for a model whose lanes would be
    wrong.
    """
    wrapped, rest = _ready(model, tokenizer, lanes, method, settings)
    return decode(wrapped, prompt, on_step=on_step, lanes=lanes, **rest)


def stream(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    lanes: int = 4,
    method: str | None = None,
    **settings: Any,
) -> Iterator[Step]:
    """As `generate`, one `Step` at a time."""
    wrapped, rest = _ready(model, tokenizer, lanes, method, settings)
    yield from Decoding(wrapped, prompt, lanes=lanes, **rest)


def _ready(
    model: Any, tokenizer: Any, n: int, method: str | None, settings: dict[str, Any]
) -> tuple[HFModel, dict[str, Any]]:
    """The model with lanes, and the settings of `Decoding`."""
    wrapped = model if isinstance(model, HFModel) else lanes(model, tokenizer)
    of_mode = {name: settings.pop(name) for name in _OF_MODE if name in settings}
    if method is None:
        if of_mode:
            raise TinylaneError(f"{next(iter(of_mode))} is given without a method; give method")
        return wrapped, settings
    for name in ("lane_rope", "lane_mask"):
        if settings.get(name) is not None:
            raise TinylaneError(f"method {method} decides {name}; leave one of them out")
    limit = settings.get("max_tokens", Settings.max_tokens)
    of_mode.setdefault("slot", max(limit) if isinstance(limit, (list, tuple)) else limit)
    rope, mask = mode(method, wrapped, n, **of_mode)
    return wrapped, {**settings, "lane_rope": rope, "lane_mask": mask}
