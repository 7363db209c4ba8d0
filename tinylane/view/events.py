"""What happened to the lanes of a run between its steps: checked, and in words.

`tinylane.methods.life` notes the events, run files hold them. A replay needs no more than these to
know when rows came and went. Files that are older hold none: there the lanes' own fields tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.core.result import Lane, Result
from tinylane.files.display import counted, one_line
from tinylane.files.io import Fields

Event = dict[str, Any]

COMMON = {"event", "lane", "step", "clock"}
DETAILS: dict[str, set[str]] = {
    "join": {"sees", "at"},
    "fork": {"source"},
    "seal": {"source"},
    "read": {"of", "yes"},
    "arrange": {"order", "was"},
    "rotate": {"method", "was"},
    "pause": set(),
    "resume": set(),
    "give": {"tokens"},
    "drop": set(),
    "finish": {"reason"},
}
BEGIN = ("join", "fork", "seal")  # events by which a lane begins


def events_of(result: Result) -> list[Event]:
    """The events of a run, in order; those of a file that holds none from its lanes."""
    if result.settings.get("events") is not None:
        return list(result.settings["events"])
    first = min(lane.start for lane in result.lanes)
    events: list[Event] = []
    note = lambda event, lane, clock, **details: events.append(
        {"event": event, "lane": lane.index, "step": clock - first, "clock": clock, **details}
    )
    for lane in result.lanes:
        if lane.forked is not None:
            note("fork", lane, lane.forked[1], source=lane.forked[0])
        elif lane.start > first:
            note("join", lane, lane.start, sees=None, at=lane.start - len(lane.prompt))
    for lane in result.lanes:
        if lane.dropped is not None:
            note("drop", lane, lane.dropped)
    return sorted(events, key=lambda event: event["step"])  # of one step: in the order above


def given_tokens(events: Sequence[Event], lanes: Sequence[Lane]) -> set[tuple[int, int]]:
    """The tokens that came from outside: their lane and their index there."""
    waiting: dict[int, list[int]] = {lane.index: [] for lane in lanes}  # steps of given tokens
    back: dict[int, list[int]] = {lane.index: [] for lane in lanes}  # steps of ends taken back
    sources: dict[str, dict[int, int]] = {"seal": {}, "fork": {}}
    began, paused = dict[int, int](), set[int]()
    for event in events:
        m, name = event["lane"], event["event"]
        if name == "give":
            waiting[m] += [event["step"]] * len(event["tokens"])
        elif name == "pause":
            paused.add(m)
        elif name == "resume" and m in paused:
            paused.remove(m)
        elif name == "resume":
            back[m].append(event["step"] - 1)
        elif name in sources:
            sources[name][m], began[m] = event["source"], event["step"]
    given: set[tuple[int, int]] = set()
    for lane in lanes:
        m = lane.index
        # What a sealed lane was still to write, its author writes in the next one; a fork does not.
        queue = waiting.get(sources["seal"].get(m, -1), []) + waiting[m]
        written = [(step, k) for k, step in enumerate(lane.steps)]
        for step, k in sorted([*written, *((step, -1) for step in back[m])]):
            if m in sources["fork"] and step < began[m]:  # a copy is what its source is
                outside = (sources["fork"][m], k) in given
            elif outside := bool(queue) and queue[0] <= step:
                queue = queue[1:]
            if outside and k >= 0:
                given.add((m, k))
        waiting[m] = queue
    return given


def check_events(settings: Fields, lanes: Sequence[Lane], steps: int) -> None:
    """Raise TinylaneError, in one line, unless a run with these lanes can have had these events."""
    events = settings.items("events", dict, default=None) or []
    begun = len(lanes) - sum(event.get("event") in BEGIN for event in events)
    if begun < 1:
        raise TinylaneError(f"events begin more lanes than the {len(lanes)} that there are")
    step = clock = 0
    told: list[list[Any]] = [[None, None, None] for _ in lanes]  # forked, follows, dropped
    for k, raw in enumerate(events):
        event, name = Fields(raw, parent=f"events {k}"), raw.get("event")
        if not isinstance(name, str) or set(raw) != COMMON | DETAILS.get(name, {""}):
            raise TinylaneError(
                f"events {k} is {show(raw)}; expected the fields of {', '.join(DETAILS)}"
            )
        new = name in BEGIN
        lane = event.whole("lane", begun * new, begun - (not new))
        step, clock = event.whole("step", step, steps), event.whole("clock", clock)
        _check_details(event, name, begun)
        begun += new
        if name == "fork":
            told[lane] = [(raw["source"], clock), told[raw["source"]][1], None]
        elif name == "seal":
            told[lane][1] = raw["source"]
        elif name == "drop":
            told[lane][2] = clock
        one = lanes[lane]
        if name == "join" and one.start != raw["at"] + len(one.prompt):
            event.fail("at", f"{one.start - len(one.prompt)}, as lane {lane} says")
        if name in ("join", "seal") and one.spans and one.spans[0][2] < step:
            event.fail("step", f"none after lane {lane} wrote, at step {one.spans[0][2]}")
    for one in lanes if settings.has("events") else ():
        if told[one.index] != [one.forked, one.follows, one.dropped]:
            raise TinylaneError(
                f"lane {one.index} was forked, sealed or dropped otherwise than the events say"
            )


def _check_details(event: Fields, name: str, begun: int) -> None:
    """The fields that one kind of event has; begun: how many lanes there were."""
    if name in ("fork", "seal"):
        event.whole("source", 0, begun - 1)
    elif name == "read":
        event.whole("of", 0, begun - 1)
        event.flag("yes")
    elif name == "join":
        event.whole("at")
    elif name == "give":
        event.ids("tokens")
    elif name == "finish":
        event.text("reason")
    elif name == "rotate":
        event.text("method")
        event.fields("was")
        return
    for field in sorted({"sees", "order", "was"} & event.raw.keys()):
        default = {"default": None} if field == "sees" else {}
        check_lanes(event, field, event.items(field, int, **default) or [], begun)


def check_lanes(raw: Fields, field: str, lanes: list[int], n: int) -> None:
    """Raise TinylaneError unless they are different lanes of n."""
    if len({*lanes}) != len(lanes) or not all(0 <= m < n for m in lanes):
        raw.fail(field, f"different lanes from 0 to {n - 1}")


def happened(events: Sequence[Event], most: int = 12) -> list[str]:
    """The first events as lines: `after step 3: lane 2 is dropped`."""
    when = lambda step: f"after step {step}" if step else "before step 1"
    lines = [f"{when(event['step'])}: {words(event)}" for event in events[:most]]
    return lines + [f"and {len(events) - most} more"] * (len(events) > most)


def words(event: Event) -> str:
    """An event as a clause: `lane 3 joins at position 14 and reads lanes 1, 2` (lanes from 1)."""
    lane, name = f"lane {event['lane'] + 1}", event["event"]
    if name == "join":
        return f"{lane} joins at position {event['at']}{_sees(event['sees'])}"
    if name == "fork":
        return f"{lane} begins as a fork of lane {event['source'] + 1}"
    if name == "seal":
        return f"lane {event['source'] + 1} is sealed; its author goes on as {lane}"
    if name == "read":
        return (
            f"{lane} reads lane {event['of'] + 1} {'from here on' if event['yes'] else 'no longer'}"
        )
    if name == "arrange":
        first = f"the text of {_lanes(event['order'])} comes first"
        return f"in every view {first if event['order'] else 'lanes stand by number again'}"
    if name == "rotate":
        return f"the method is {one_line(event['method'], 40)} now; what was written is read again"
    if name == "give":
        return f"{lane} is given {counted(len(event['tokens']), 'token')} to write"
    if name == "finish":
        return f"{lane} is ended ({one_line(event['reason'], 40)})"
    return f"{lane} " + {"pause": "waits", "resume": "goes on", "drop": "is dropped"}[name]


def _sees(lanes: list[int] | None) -> str:
    if lanes is None:
        return ""
    return f" and reads {_lanes(lanes)}" if lanes else " and reads nobody"


def _lanes(lanes: list[int]) -> str:
    few = ", ".join(str(m + 1) for m in lanes[:12])
    few += f" and {len(lanes) - 12} more" if lanes[12:] else ""
    return f"lane{'s' * (len(lanes) > 1)} {few}"
