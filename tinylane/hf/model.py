"""A model of transformers as a `tinylane.Model`. Its cache is in `tinylane.hf.cache`.

T rows   V vocab
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property, partial
from types import NoneType
from typing import Any

import numpy as np
import torch

from tinylane.checkpoints.adapter import fill_all, load_adapter
from tinylane.checkpoints.config_json import ARCHITECTURES, sampling_defaults
from tinylane.checkpoints.extras import summary
from tinylane.checkpoints.side import LANE_EMBED, LANE_KV, Side, rows_of_lanes
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.cache import LaneCache
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, of_kind
from tinylane.core.lanes import LaneMask, LaneRoPE, Places, Rotation
from tinylane.core.model import Model
from tinylane.hf.attention import LanePass, OfLanes, attending, make_pass, standing
from tinylane.hf.cache import HFCache


class HFModel(Model):
    """What `lanes` returns. `source` is the model of transformers; see `forward` for gradients."""

    source: Any
    rotary: np.ndarray  # theta (D/2,), float64
    new_past: Any
    lane_kv: np.ndarray | None = None  # (layers, 1 + M, D)

    @property
    def theta(self) -> np.ndarray:  # type: ignore[override]
        """What one position turns each pair of channels by: (D/2,) float64, radians."""
        return self.rotary

    def new_cache(
        self, lane_rope: Rotation | None = None, lane_mask: LaneMask | None = None
    ) -> HFCache:
        """An empty cache: the model's own, with the coordinates of its rows."""
        return HFCache(self, self.rope(lane_rope), lane_mask)

    def run(
        self,
        ids: np.ndarray,
        rope: Rotation,
        mask: LaneMask,
        places: Places,
        cache: LaneCache | None,
        keep: np.ndarray | None,
    ) -> np.ndarray:
        """One pass without gradients: logits (rows, V), float32 (float64 of a float64 model)."""
        with torch.no_grad():
            if isinstance(cache, HFCache):
                logits = self._pass(ids, cache.make(rope, mask, places), places, keep, cache.past)
            else:
                lane_pass = self.lane_pass(rope, mask, places)
                logits = self._pass(ids, lane_pass, places, keep, None)
        logits = logits[0] if logits.dtype == torch.float64 else logits[0].float()
        return logits.cpu().numpy()

    def forward(
        self,
        tokens: Any,
        positions: Any,
        lanes: Any,
        lane_rope: Rotation | None = None,
        lane_mask: LaneMask | None = None,
        omega: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (..., T, V) as a tensor, with gradients, without a cache.

        tokens: (T,) or (B, T), for B texts at the same coordinates; positions, lanes: (T,), as of
        `Model`. omega: Omega as a tensor (D/2,) or (layers, D/2) that may need a gradient; it takes
        the place of the LaneRoPE's.
        """
        i, m = (np.asarray(x, dtype=np.int64) for x in (positions, lanes))
        places = Places(i, m, i, m)
        rope = self.rope(lane_rope)
        mask = lane_mask or self.mask(max(int(m.max()) + 1, 1))
        ids = np.asarray(tokens)
        if omega is not None:
            if not isinstance(rope, LaneRoPE):
                raise TinylaneError(f"omega is given with {type(rope).__name__}; give a LaneRoPE")
            # The blocks are those of an Omega that is not 0.
            rope = LaneRoPE(np.ones(self.rotary.shape), rope.prompt_lane)
        logits = self._pass(ids, self.lane_pass(rope, mask, places, omega), places, None, None)
        return logits if ids.ndim == 2 else logits[0]

    def lane_pass(
        self,
        rope: Rotation,
        mask: LaneMask,
        places: Places,
        omega: torch.Tensor | None = None,
        stand: np.ndarray | None = None,
        physical: np.ndarray | None = None,
        written: np.ndarray | None = None,
    ) -> LanePass:
        """`make_pass` for this model; without a cache the keys are the rows themselves."""
        if omega is None:
            radians = rope.omega if isinstance(rope, LaneRoPE) else self.rotary
            omega = torch.tensor(radians, dtype=torch.float64, device=self.source.device)
        if stand is None:
            stand = standing(rope, mask, places)
        if physical is None:
            physical = np.arange(len(places.key_lanes))
        by = places.key_lanes if written is None else written
        of_lanes = self._of_lanes(places.key_positions, by) if self.lane_kv is not None else None
        return make_pass(rope, mask, places, stand, physical, omega, of_lanes)

    def _of_lanes(self, positions: np.ndarray, lanes: np.ndarray) -> OfLanes:
        """What the table of lanes adds to keys at these positions, which these lanes wrote."""
        put = lambda x: torch.as_tensor(x, device=self.source.device)
        radians = put(positions)[:, None] * put(self.rotary)
        # The model's keys carry this factor (YaRN's); what is added to them carries it too.
        factor = max(
            (getattr(x, "attention_scaling", 1.0) for x in self.source.modules()), default=1
        )
        return OfLanes(
            put(self.lane_kv),
            put(rows_of_lanes(self.params, self.config, lanes)),
            (radians.cos() * factor, radians.sin() * factor),
        )

    def _pass(
        self,
        ids: np.ndarray,
        lane_pass: LanePass,
        places: Places,
        keep: np.ndarray | None,
        past: Any,
    ) -> torch.Tensor:
        put = lambda x: torch.as_tensor(np.atleast_2d(x), device=self.source.device)
        tokens = put(ids)
        # Any four-dimensional mask keeps the model from making one; `attend` uses lane_pass.mask.
        shape = (len(tokens), 1, len(places.lanes), len(places.key_lanes))
        some: dict[str, Any] = {}
        if keep is not None and "logits_to_keep" in self.takes:
            some = {"logits_to_keep": put(keep)[0]}
        given = {"input_ids": tokens}
        if LANE_EMBED in self.params:
            x = self.source.get_input_embeddings()(tokens)
            index = put(rows_of_lanes(self.params, self.config, places.lanes))[0]
            given = {"inputs_embeds": x + put(self.params[LANE_EMBED]).to(x.dtype)[index]}
        with attending(self.source):
            logits = self.source(
                **given,
                position_ids=put(places.positions).expand(len(tokens), -1),
                attention_mask=torch.ones(shape, dtype=torch.bool, device=tokens.device),
                **{self.past_name: past},
                use_cache=past is not None,
                lane_pass=lane_pass,
                **some,
            ).logits
        return logits if keep is None or some else logits[:, put(keep)[0]]

    @cached_property
    def takes(self) -> frozenset[str]:
        """The arguments that the model's forward pass names."""
        base = getattr(self.source, "get_base_model", lambda: self.source)()  # a PEFT model's own
        return frozenset(inspect.signature(base.forward).parameters)

    @property
    def past_name(self) -> str:
        """What the model calls its cache: `cache` since transformers 5.24."""
        return "cache" if "cache" in self.takes else "past_key_values"


def lanes(model: Any, tokenizer: Any = None, cache: Any = None, adapter: Any = None) -> HFModel:
    """A causal language model of transformers as a `tinylane.Model`.

    tokenizer: its fast tokenizer, or a `tinylane` one; None where prompts are token ids. cache: a
    callable that makes an empty cache of transformers; default `DynamicCache`. It is tried with a
    few rows (`check_cache`), and refused if it loses some. adapter: the folder
    of a lane adapter that changes no weights (what `tinylane fuse` leaves in `adapter/`); its
    Omega, embeddings of lanes, who reads whom, and how prompts and lanes begin are the defaults of
    every call. Law 11 is
    tried on the model itself, with a few rows (`tinylane.hf.check`). Raises TinylaneError, with the
    reason, for a model whose lanes would be wrong: rotations that are interleaved or of a part of
    the head, layers without one, two tables of frequencies, frequencies that change with the
    length; and for an adapter that does not fit.
    """
    from transformers import DynamicCache

    from tinylane.hf.check import check_cache, check_law, check_model, window

    theta = check_model(model)
    config = model.config.get_text_config()
    generation = getattr(model, "generation_config", None)
    named = [] if generation is None else generation.eos_token_id
    named = named if isinstance(named, (list, tuple)) else [named]
    eos = tuple(int(id) for id in named if id is not None)
    vocab = model.get_input_embeddings().weight.shape[0]
    given = {} if generation is None else generation.to_diff_dict()
    wrapped = HFModel(
        ModelConfig(
            family=config.model_type,
            vocab=vocab,
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=2 * len(theta),
            mlp_width=getattr(config, "intermediate_size", None) or 0,
            context=min(config.max_position_embeddings, window(config)),
            eos_ids=eos,
        ),
        {},
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer=tokenizer_of(tokenizer, vocab, eos),
        sampling=sampling_defaults(given),
        identity=f"transformers {type(model).__name__}",
    )
    wrapped.source, wrapped.rotary = model, theta
    of_kind("cache", cache, (Callable, NoneType), "a function that makes an empty cache")
    wrapped.new_past = cache or DynamicCache
    check_law(wrapped)
    if cache is not None:
        check_cache(wrapped)
    if adapter is not None:
        _follow(wrapped, adapter)
    return wrapped


def _follow(wrapped: HFModel, folder: Any) -> None:
    """Take from an adapter how lanes read each other and how prompts are written."""
    tuned = load_adapter(folder, wrapped.config)
    shapes = {name: value.shape for name, value in tuned.tensors.items()}
    tables = {name for name in shapes if name == LANE_EMBED or name.endswith(".lane_kv.weight")}
    if layers := summary({name: shape for name, shape in shapes.items() if name not in tables}):
        raise TinylaneError(
            f"{folder}: has {', '.join(layers)}, for which a model of transformers has no place; "
            "load the checkpoint by tinylane.load"
        )
    if LANE_EMBED in tables and wrapped.config.family not in ARCHITECTURES:
        raise TinylaneError(
            f"{folder}: has lane_embed; {wrapped.config.family} may change embeddings behind it. "
            f"Expected a model of {', '.join(ARCHITECTURES)}"
        )
    if len(tuned.tensors) > len(tables) or tuned.copies:
        raise TinylaneError(
            f"{folder}: changes weights ({len(tuned.tensors)} tensors); merge them by `tinylane "
            "fuse`, load the merged checkpoint, and give its adapter/"
        )
    wrapped.params, wrapped.side = {name: tuned.tensors[name] for name in tables}, Side
    if LANE_KV in tables:
        kv = (LANE_KV.replace(".0.", f".{layer}.") for layer in range(wrapped.config.layers))
        wrapped.lane_kv = np.stack([wrapped.params[name] for name in kv])
    wrapped.lane_rope, wrapped.visibility, wrapped.lag = (
        tuned.lane_rope, tuned.visibility, tuned.lag
    )  # fmt: skip
    wrapped.lane_prompts = partial(fill_all, tuned.lane_prompt)
    if wrapped.tokenizer is not None:
        wrapped.tokenizer.raw = tuned.raw


def tokenizer_of(tokenizer: Any, vocab: int, eos: tuple[int, ...]) -> Tokenizer | None:
    """A fast tokenizer of transformers as tinylane's: same ids, same texts, same chat template."""
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return tokenizer
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        raise TinylaneError(
            f"{type(tokenizer).__name__} has no fast backend; load it with use_fast=True"
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    names = {
        role: token
        for role, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    return Tokenizer(
        type(core).from_str(core.to_str()),
        names,
        config_eos=eos,
        vocab=vocab,
        add_bos=getattr(tokenizer, "add_bos_token", None),
        chat_template=template,
        template_source=f"{type(tokenizer).__name__}",
    )
