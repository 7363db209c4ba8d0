"""The field `lanes` of a request: how its choices read each other, or which method answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, reals, show
from tinylane.core.lanes import MAX_LANES, LaneMask
from tinylane.methods.modes import MODES
from tinylane.serve.body import BadRequest, Body

if TYPE_CHECKING:
    from tinylane.core.lanes import Rotation
    from tinylane.core.model import Model
    from tinylane.methods.choices import Setup

# What a method may take of what says how lanes read each other.
DECIDED = ("omega", "slot", "scale", "prompt_lane", "visibility", "lag")
METHODS = f"{', '.join(MODES)}, or another row of `tinylane methods`"
LANES = 3  # of a method, where nothing says how many


@dataclass(frozen=True)
class Lanes:
    """How the choices read each other. None: as the model was trained.

    method: a mode, whose lanes are the choices; or another row of `tinylane methods`, whose lanes
    work on one answer. omega: a name of `modes.STARTS`, or numbers. prompts: a text for each lane.
    lanes, options: of such a method, how many, and its own.
    """

    method: str | None = None
    visibility: Any = None
    omega: Any = None
    slot: float | None = None
    scale: float | None = None
    prompt_lane: Any = None
    lag: int | None = None
    prompts: list[str] | None = None
    lanes: int | None = None
    options: dict[str, Any] | None = None

    @property
    def joined(self) -> str | None:
        """The method's name if its lanes work on one answer."""
        return None if self.method in (None, *MODES) else self.method

    def setup(self, model: Model, max_tokens: int) -> Setup:
        """What such a method gives a `Decoding`. Raises TinylaneError."""
        from tinylane.methods import prepare

        said = {name: getattr(self, name) for name in DECIDED}
        given = {name: value for name, value in said.items() if value is not None}
        options = {**given, **(self.options or {})}
        return prepare(model, str(self.method), self.lanes or LANES, max_tokens, options)

    def settings(self, model: Model, n: int, max_tokens: int) -> dict[str, Any]:
        """As settings of `Decoding`. Raises TinylaneError for what this model cannot do."""
        from tinylane.evaluate.tasks.shell_game import game_of

        rope, mask = self._rotation(model, n, max_tokens)
        prompts = self.prompts or (game_of(model) or model).lane_prompts(n)
        if len(prompts) != n:
            raise BadRequest(f"{len(prompts)} lane prompts for n = {n}", "lanes.prompts")
        return {"lane_rope": rope, "lane_mask": mask, "lane_prompts": prompts}

    def _rotation(
        self, model: Model, n: int, max_tokens: int
    ) -> tuple[Rotation | None, LaneMask | None]:
        from tinylane.methods.modes import mode

        name = self.method
        if name is None and self.visibility == "independent":
            name = "independent"
        said = (self.visibility, self.omega, self.slot, self.scale, self.prompt_lane, self.lag)
        if name is None and {*map(type, said)} == {type(None)}:
            if not model.trained_for_lanes:
                raise BadRequest(
                    "this model was not trained for lanes; say which method: "
                    '{"method": "joint"}, for example',
                    "lanes",
                )
            return None, None
        seen = self.visibility
        if isinstance(seen, list):
            seen = LaneMask(reals("visibility", seen), model.lag if self.lag is None else self.lag)
            if seen.n < n:
                raise BadRequest(f"visibility is {seen.n} x {seen.n}; n is {n}", "lanes.visibility")
        return mode(
            name or "joint",
            model,
            n,
            slot=max_tokens if self.slot is None else self.slot,
            omega=self.omega,
            scale=self.scale,
            prompt_lane=self.prompt_lane,
            visibility=seen,
            lag=self.lag,
        )


def read_lanes(body: Body) -> Lanes | None:
    """What a request says of lanes; None: nothing. Raises BadRequest."""
    if body.get("lanes") in (None, False):
        return None
    given = Body({} if body.get("lanes") is True else body.object("lanes").raw, parent="lanes")
    known = {"method", "mode", *Lanes.__dataclass_fields__}
    if unknown := [key for key in given.raw if key not in known]:
        raise BadRequest(
            f"lanes has {show(unknown[0], 40)}; expected some of {', '.join(sorted(known))}",
            "lanes",
        )
    visibility, omega = given.get("visibility"), given.get("omega")
    if not isinstance(visibility, (str, list, type(None))):
        given.fail("visibility", "a name or a matrix")
    if not isinstance(omega, (str, list, type(None))):
        given.fail("omega", "a name or numbers")
    if isinstance(visibility, list) and len(visibility) > MAX_LANES:
        given.fail("visibility", f"a matrix for at most {MAX_LANES} lanes")
    where = given.get("prompt_lane")
    if isinstance(where, bool) or where not in (None, "own", 0, "0"):
        given.fail("prompt_lane", '"own" or 0')
    method = given.text("method", None) or given.text("mode", None)
    try:
        method = None if method is None else published(method)
    except TinylaneError:
        given.fail("method" if given.has("method") else "mode", METHODS)
    one = method is None or method in MODES
    if one and (given.has("lanes") or given.has("options")):
        name = "lanes" if given.has("lanes") else "options"
        raise BadRequest(
            f"lanes.{name} is for methods with one answer; n is the number here", "lanes"
        )
    if not one and (body.get("n") or 1) != 1:
        raise BadRequest(
            f"method {method} gives one answer: leave n out, and give lanes.lanes", "n"
        )
    if not one and (body.get("logprobs") not in (None, False) or body.get("echo")):
        raise BadRequest(
            f"method {method} gives one text without logprobs and echo", "lanes.method"
        )
    if not one and (body.get("frequency_penalty") or body.get("presence_penalty")):
        raise BadRequest(f"method {method} draws its own way: leave penalties out", "lanes.method")
    if not one and given.get("prompts"):
        raise BadRequest(f"method {method} has texts of its own: leave lanes.prompts out", "lanes")
    options = given.object("options").raw
    if twice := [name for name in DECIDED if given.has(name) and name in options]:
        raise BadRequest(
            f"{twice[0]} is in lanes and in lanes.options: give it once", "lanes.options"
        )
    if "until" in options and method == "hogwild_steps":
        # A pattern may take for ever, and a server that runs one for a client waits for it.
        raise BadRequest("lanes.options.until is a pattern, which a server does not take", "lanes")
    return Lanes(
        method=method,
        visibility=visibility,
        omega=omega,
        slot=given.real("slot", None),
        scale=given.real("scale", None, above=0),
        prompt_lane=where,
        lag=given.whole("lag", default=None),
        prompts=given.items("prompts", str, None),
        lanes=given.whole("lanes", 1, MAX_LANES, None),
        options=options or None,
    )


def published(name: str) -> str:
    """A mode, or another row of `tinylane methods` as its file has it. Raises TinylaneError."""
    from tinylane.methods import method

    mode = name if name in MODES else method(name).name
    return "joint" if mode == "lanerope" else mode
