"""Every published way to let generations work together, one short file each.

    from tinylane.methods import METHODS, decode, generate

    generate(model, "...", method="parathinker", lanes=3, max_tokens=64)

A method is five choices (`tinylane.methods.choices`): where keys stand, who reads whom, when lanes
begin and end, who draws, and extra parameters. `tinylane methods` prints the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from types import NoneType
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, of_kind, reals, show, whole
from tinylane.core.lanes import MAX_LANES
from tinylane.core.model import Model
from tinylane.core.result import Result, Step
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
from tinylane.methods.prompt import Prompt, encode_lane_prompt, encode_prompt

if TYPE_CHECKING:
    from tinylane.methods.choices import Job, Method, Setup

    METHODS: Mapping[str, Method]

NAMES = (
    "independent", "best_of_n", "beam", "lanerope", "group_think", "hogwild", "hogwild_steps",
    "async_reasoning", "multi_stream", "plain_lanes", "bridge", "lace", "parathinker", "multiverse",
    "npr", "parallel_r1", "aspd", "pasta", "threadweaver", "apr", "ssa", "tree_of_thoughts",
    "graph_of_thoughts", "gambit", "stop", "leap", "cpt", "budget_forcing", "logit_averaging",
    "dynamic_lanes", "tool_lane",
)  # fmt: skip
ALIASES = {"joint": "lanerope"}  # as `--mode` has it
MAY_BE_0 = ("least", "waits", "quiet_steps")  # options that are whole numbers; others are 1 or more

__all__ = [
    "METHODS", "NAMES", "Job", "Method", "Setup", "checked", "decode", "generate", "method",
    "prepare", "start", "stream",
]  # fmt: skip


def method(name: str) -> Method:
    """The method of a name. Raises TinylaneError for a name that is none."""
    of_kind("method", name, str, "a name")
    name = ALIASES.get(name, name).replace("-", "_")
    if name not in NAMES:
        raise TinylaneError(f"method {show(name, 40)}; expected one of {', '.join(NAMES)}")
    chosen: Method = import_module(f"tinylane.methods.{name}").METHOD
    return chosen


def __getattr__(name: str) -> Any:
    """METHODS, a dict of all by name, and the classes of `choices`: imported when they are used."""
    if name == "METHODS":
        return {one: method(one) for one in NAMES}
    if name in ("Job", "Method", "Setup"):
        return getattr(import_module("tinylane.methods.choices"), name)
    raise AttributeError(f"module 'tinylane.methods' has no attribute {name!r}")


def prepare(
    model: Model, name: str, lanes: int, max_tokens: int, options: Mapping[str, Any] | None = None
) -> Setup:
    """What a method gives a `Decoding`. options: the method's own; see its file.

    Raises TinylaneError for an option that the method does not have, or of a wrong value.
    """
    from tinylane.checkpoints import extras
    from tinylane.methods.choices import Anew, Job

    chosen, given = method(name), checked(name, options)
    n = whole("lanes", lanes, 1, MAX_LANES)
    limit = whole("max_tokens", max_tokens, 1)
    of_kind("model", model, Model, "a model: tinylane.load gives one")
    beside = {name: x for name, x in model.params.items() if extras.is_extra(name)}
    extras.check(model.config, {n: tuple(extras.turned(n, x).shape) for n, x in beside.items()})
    job = Job(model, n, limit, given)
    setup = chosen.prepare(job)
    if "schedule" not in setup.settings:
        return setup
    anew = Anew(lambda: chosen.prepare(job).settings["schedule"])
    return replace(setup, settings={**setup.settings, "schedule": anew})


def checked(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All options of a method, those that are not given by default.

    Raises TinylaneError for one that the method does not have, or of a wrong value, as far as that
    can be told without a model.
    """
    chosen = method(name)
    given = dict(of_kind("options", {} if options is None else options, Mapping, "a dict"))
    unknown = [name for name in given if name not in chosen.options]
    if unknown:
        known = ", ".join(chosen.options) or "none"
        raise TinylaneError(f"method {chosen.name} has no {show(unknown[0], 40)}; it has {known}")
    for option, value in given.items():
        given[option] = _of_its_kind(option, value, chosen.options[option])
    every = {**chosen.options, **given}
    for option in chosen.filled:
        if not every[option]:
            raise TinylaneError(f"{option} is empty; method {chosen.name} needs one")
    chosen.check(every)
    return every


def _of_its_kind(name: str, value: Any, default: Any) -> Any:
    """The value of an option. Raises TinylaneError unless it is of the kind of the default."""
    if name in ("score", "tool"):
        return of_kind(name, value, (Callable, NoneType), "a function (in Python)")
    if name == "prompts":
        texts = of_kind(name, value, (list, tuple, NoneType), "a list: a text or ids for each lane")
        return texts and [_text(f"{name} {k}", text) for k, text in enumerate(texts)]
    if isinstance(default, bool):
        return of_kind(name, value, bool, "true or false")
    if isinstance(default, int):
        return whole(name, value, int(name not in MAY_BE_0))
    if isinstance(default, float):
        return float(reals(name, value, single=True))
    if name in ("sync", "until"):
        return of_kind(name, value, str, "a text")
    if isinstance(default, str):
        return _text(name, value)
    if isinstance(default, Mapping):
        return of_kind(name, value, Mapping, "an object")
    if isinstance(default, list):
        texts = of_kind(name, value, (list, tuple), "a list of texts")
        return [of_kind(f"{name} {k}", text, str, "a text") for k, text in enumerate(texts)]
    return value


def _text(name: str, value: Any) -> Any:
    of_kind(name, value, (str, list, tuple), "a text or token ids")
    return value if isinstance(value, str) else [whole(f"{name}: a token", t, 0) for t in value]


def decode(
    model: Model,
    prompt: Prompt,
    method: str,
    lanes: int = 3,
    *,
    max_tokens: int = 256,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Decoding:
    """A `Decoding` that works as the method says; iterate over it, or use `generate`.

    settings: those of `Decoding`, less those that the method decides. Raises TinylaneError for
    these, and as `prepare` and `Decoding` do.
    """
    setup = prepare(model, method, lanes, max_tokens, options)
    for name in sorted({*setup.settings} & set(settings)):
        if settings[name] is not None:
            raise TinylaneError(f"method {method} decides {name}; leave it out")
    texts = settings.get("lane_prompts")
    if (
        texts is not None
        and len(of_kind("lane_prompts", texts, (list, tuple), "a list")) != setup.lanes
    ):
        raise TinylaneError(f"{len(texts)} lane prompts; method {method} begins with {setup.lanes}")
    return start(model, prompt, setup, max_tokens=max_tokens, **settings)


def start(model: Model, prompt: Prompt, setup: Setup, **settings: Any) -> Decoding:
    """A `Decoding` with what `prepare` gave; where both say something, it wins."""
    from tinylane.methods.choices import Setup

    decided = dict(of_kind("setup", setup, Setup, "what tinylane.methods.prepare gives").settings)
    given = {k: value for k, value in settings.items() if value is not None and k not in decided}
    if len(given.get("lane_prompts", ())) not in (0, setup.lanes):
        del given["lane_prompts"]  # of the lanes that the method lets begin later
    if setup.sampler is not None:
        drawn = given.get("sampler", Sampler.from_config(model.sampling))
        of_kind("sampler", drawn, Sampler, "a Sampler, or of a class made from it")
        given["sampler"] = setup.sampler(drawn)
    if setup.shared is not None:
        ids = encode_prompt(model, prompt, settings.get("template"))
        first, *others = decided.get("lane_prompts") or [[]] * setup.lanes
        rest = [*ids[setup.shared :], *encode_lane_prompt(model, first)]
        prompt, decided["lane_prompts"] = ids[: setup.shared], [rest, *others]
    return Decoding(model, prompt, setup.lanes, **{**given, **decided})


def stream(
    model: Model, prompt: Prompt, method: str, lanes: int = 3, **more: Any
) -> Iterator[Step]:
    """As `decode`, one `Step` at a time."""
    yield from decode(model, prompt, method, lanes, **more)


def generate(
    model: Model,
    prompt: Prompt,
    method: str,
    lanes: int = 3,
    *,
    on_step: Callable[[Step], None] | None = None,
    **more: Any,
) -> Result:
    """As `decode`, to the end. on_step: called after every step."""
    of_kind("on_step", on_step, (Callable, NoneType), "a function")
    decoding = decode(model, prompt, method, lanes, **more)
    for step in decoding:
        if on_step is not None:
            on_step(step)
    return decoding.result()
