"""What a method is: five choices, as data, and what they give a `Decoding`.

    place    where a key stands for a query (the rotation)
    sees     who reads whom (the mask)
    life     when lanes begin and end (the schedule)
    draws    who draws the token
    extra    parameters beside the model's

Every file of this folder that is named after a method holds one: a `METHOD`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from tinylane.core.errors import TinylaneError, show, whole
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.prompt import encode_lane_prompt

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


class Job(NamedTuple):
    """What a method is asked to prepare. options: the method's own, its defaults filled in."""

    model: Model
    lanes: int
    max_tokens: int  # of each lane; a lane that goes on in another begins to count anew
    options: dict[str, Any]

    def ids(self, name: str, /, **words: Any) -> list[int]:
        """An option's text (or token ids) as token ids; `{lane}` and other words are filled in.

        A text for which the vocabulary has no token at all is token 0: a lane begins with one.
        """
        text = self.text(name, **words)
        ids = encode_lane_prompt(self.model, text)
        return ids or ([0] if len(text) else [])

    def token(self, name: str, /) -> int:
        """The first token of an option's text. Raises TinylaneError if there is none."""
        if ids := self.ids(name):
            return ids[0]
        raise TinylaneError(f"{name} is {show(self.options[name])}; expected a token or more")

    def text(self, name: str, /, **words: Any) -> Any:
        """An option's text with words filled in; token ids as they are."""
        value = self.options[name]
        return fill(value, **words) if isinstance(value, str) else value

    def slot(self) -> Any:
        """The option `slot`; None: as many positions as a lane may write."""
        return self.max_tokens if self.options["slot"] is None else self.options["slot"]

    def number(self, name: str, /, least: int = 0) -> int:
        """An option that is a whole number."""
        return whole(name, self.options[name], least)


def fill(text: str, /, **words: Any) -> str:
    """`{lane}` and the like in a text, by what they stand for; other braces stay."""
    for word, value in words.items():
        text = text.replace("{" + word + "}", str(value))
    return text


@dataclass(frozen=True)
class Setup:
    """What a method gives a `Decoding`.

    lanes: how many begin. settings: fields of `methods.prompt.Settings`. shared: how many tokens of
    the prompt all lanes share, the rest being lane 0's alone; None: all of them. sampler: makes the
    sampler of the user's.
    """

    lanes: int
    settings: dict[str, Any]
    shared: int | None = None
    sampler: Callable[[Sampler], Sampler] | None = None


class Anew:
    """A method's schedule, begun anew for every `Decoding` that calls it: none is taken for what
    another has done."""

    def __init__(self, make: Callable[[], Callable[[Decoding], None]]) -> None:
        self._make = make
        self._of: WeakKeyDictionary[Decoding, Callable[[Decoding], None]] = WeakKeyDictionary()

    def of(self, decoding: Decoding) -> Any:
        """The schedule of one decoding."""
        if decoding not in self._of:
            self._of[decoding] = self._make()
        return self._of[decoding]

    def __call__(self, decoding: Decoding) -> None:
        self.of(decoding)(decoding)


def changed(sampler: Sampler, **fields: Any) -> Any:
    """A copy of a sampler, of whatever class it is, with other values of some fields."""
    twin = copy(sampler)
    vars(twin).update(fields)  # a Sampler is frozen, and another class may be made otherwise
    return twin


@dataclass(frozen=True)
class Method:
    """A published way to let generations work together. The texts are for readers.

    options: names and defaults of what `prepare` takes beside the model and numbers. filled: those
    that may not be empty. check: raises TinylaneError for what else no model could make right.
    answer: whose text answers, of the lanes that were not dropped: the majority, the likeliest, the
    one that joined last, or all as one text.
    alike: lanes that begin later would all write the same, if greedy.
    needs: the kind of `tinylane.checkpoints.extras` without which the method does nothing that
    another does not.
    """

    name: str
    title: str
    source: str
    what: str
    place: str
    sees: str
    life: str
    draws: str
    extra: str
    equation: str
    law: str
    prepare: Callable[[Job], Setup]
    options: dict[str, Any] = field(default_factory=dict)
    uncertain: str = ""
    answer: Literal["vote", "best", "last", "text"] = "vote"
    alike: bool = False
    needs: str = ""
    filled: tuple[str, ...] = ()
    check: Callable[[dict[str, Any]], None] = lambda options: None


def alone(job: Job, lanes: int | None = None, **settings: Any) -> Setup:
    """Lanes that read nobody, without a rotation of lanes: what most schedules begin with."""
    n = job.lanes if lanes is None else lanes
    rotation, mask = LaneRoPE.none(job.model.theta), LaneMask.independent(n)
    return Setup(n, {"lane_rope": rotation, "lane_mask": mask, **settings})


def texts(job: Job, name: str, n: int) -> Sequence[list[int]]:
    """An option's text for lanes 1 .. n, as token ids."""
    return [job.ids(name, lane=m + 1, lanes=n) for m in range(n)]
