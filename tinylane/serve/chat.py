"""`tinylane chat`: a conversation in the terminal, with one lane or several.

All lanes write side by side, and the conversation goes on with one of them. What earlier turns put
into the cache is not computed again, as far as the new prompt begins with the same tokens.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tinylane.commands import (
    common,
    generate,
    generate_loop,
    generate_method,
    lane_flags,
    shared_flags,
)
from tinylane.core.errors import TinylaneError, show, whole
from tinylane.core.lanes import LaneMask
from tinylane.files.display import printable
from tinylane.serve.server import need

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.core.result import Lane, Result, Step
    from tinylane.core.sampling import Sampler
    from tinylane.methods.decoding import Decoding

MOST_LANES, METHOD_LANES = 64, 3  # at most; of a method, where nothing says how many
WARM = 0.7  # temperature where several lanes would all be greedy, and so the same
HELP = """\
/new            begin a new conversation
/lanes N        how many lanes answer
/method NAME    how they read each other: independent, joint, group_think, hogwild; or another
                row of `tinylane methods`, whose lanes work on one answer
/save FILE      write the conversation as JSON
/quit           end (or Ctrl-D); Ctrl-C ends an answer
Everything else is for the model."""


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += " Ctrl-C ends an answer, Ctrl-D the chat; /help lists its commands."
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    p.add_argument("--system-prompt", metavar="TEXT", type=shared_flags.text)
    p.add_argument("--chat-template-config", metavar="JSON", help='e.g. {"enable_thinking": false}')
    g = p.add_argument_group("lanes")
    g.add_argument("--lanes", type=int, metavar="N", help="that answer; default: 1, of a method 3")
    g.add_argument("--mode", choices=generate.MODES, help="how they read each other")
    g.add_argument("--method", metavar="NAME", help="how they work together; see tinylane methods")
    g.add_argument("--visibility", metavar="V", help="who reads whom; as of tinylane generate")
    shared_flags.rotation_flags(g)
    g = p.add_argument_group("length and sampling (defaults: the model's generation_config)")
    g.add_argument("--max-tokens", "-m", type=int, default=512, metavar="N", help="of a lane; 512")
    shared_flags.sampling_flags(g)
    g.add_argument("--seed", type=int, metavar="S", help="of the first answer; default: a new one")
    p.add_argument("--plain", action="store_true", help="lines, in a terminal too")
    p.add_argument("--quiet", action="store_true", help="no notes and no statistics")
    p.set_defaults(raw=None, prefill_response=None)


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    shared_flags.check_numbers(args, 1, "lanes", "max_tokens")
    if args.method is not None:
        if args.mode is not None:
            raise TinylaneError(f"--mode {args.mode} and --method {args.method}; give one of them")
        args.mode, args.method = named("--method", args.method)
    told = [flag for flag in generate_method.FLAGS if getattr(args, flag) is not None]
    if args.method is not None and told:
        raise TinylaneError(f"--{told[0].replace('_', '-')} with --method {args.method}: give one")
    shared_flags.check_numbers(args, 0, "seed")
    given, asked = shared_flags.sampling(args), shared_flags.lanes_asked(args)
    if asked:
        lane_flags.check(args)
    template = shared_flags.template(args)
    read = reader()
    model = common.load(args, lanes=args.lanes or 1, max_tokens=args.max_tokens)
    chat = Chat(args, model, given, template, asked)
    common.note(f"{common.name_of(args)} ({model.backend}, {model.dtype}); /help", args.quiet)
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:  # at the prompt: the line is given up
            continue
        try:
            if line.startswith("/"):
                if chat.command(line):
                    return 0
            elif line:
                chat.turn(line, read)
        except TinylaneError as error:
            print(f"tinylane: error: {error}", file=sys.stderr, flush=True)


def reader() -> Callable[[str], str]:
    """What reads a line: with editing and history in a terminal, else standard input."""
    if not sys.stdin.isatty():

        def plain(prompt: str) -> str:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line

        return plain
    need("prompt_toolkit")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    session: Any = PromptSession(history=InMemoryHistory())
    return session.prompt


def named(flag: str, name: str) -> tuple[str | None, str | None]:
    """A mode, or else a method whose lanes work on one answer; the other is None. Raises
    TinylaneError for what is neither. flag: who says so."""
    from tinylane.serve.asked_lanes import METHODS, published

    try:
        name = published(name)
    except TinylaneError:
        raise TinylaneError(f"{flag} is {show(name, 40)}; expected {METHODS}") from None
    return (name, None) if name in generate.MODES else (None, name)


class Chat:
    """The conversation so far, its cache, and what the next answer is drawn with."""

    def __init__(
        self,
        args: Any,
        model: Model,
        given: dict[str, Any],
        template: dict[str, Any] | None,
        lanes_asked: bool,
    ) -> None:
        if model.tokenizer is None or not model.tokenizer.templates:
            raise TinylaneError(
                "this model has no chat template; give another --model, or use tinylane generate"
            )
        self.args, self.model, self.template = args, model, template
        self.given, self.lanes_asked = given, lanes_asked
        self.messages: list[dict[str, str]] = []
        self.cache: Any = None
        seed = int.from_bytes(os.urandom(4), "little") if args.seed is None else args.seed
        self.seed = seed
        self.method: str | None = args.method  # one whose lanes work on one answer

    @property
    def lanes(self) -> int:
        """How many lanes answer."""
        return self.args.lanes or (1 if self.method is None else METHOD_LANES)

    def command(self, line: str) -> bool:
        """Do what a line that begins with / says; returns whether that was to end."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if name in ("quit", "exit", "q"):
            return True
        if name == "new":
            self.messages, self.cache = [], None
        elif name == "lanes":
            self.args.lanes = whole(
                "/lanes", int(rest) if rest.isdecimal() else rest, 1, MOST_LANES
            )
        elif name in ("method", "mode"):
            self.choose(rest)
        elif name == "save":
            self.save(rest)
        elif name == "help":
            print(HELP, flush=True)
        else:
            raise TinylaneError(f"no command {show('/' + name, 40)}; /help lists them")
        return False

    def choose(self, name: str) -> None:
        """Let the lanes work together so from now on; flags of the method before hold no longer.
        Raises TinylaneError for no method."""
        self.args.mode, self.method = named("/method", name)
        self.lanes_asked = self.method is None
        for flag in generate_method.FLAGS:
            setattr(self.args, flag, None)

    def save(self, name: str) -> None:
        """Write the conversation, whole or not at all."""
        from tinylane.files.writing import replacing

        if not name:
            raise TinylaneError("/save needs the name of a file")
        path = shared_flags.check_target("/save", name)
        system, said = self.args.system_prompt, self.messages
        said = said if system is None else [{"role": "system", "content": system}, *said]
        with replacing(path) as file:
            document = json.dumps({"messages": said}, ensure_ascii=True, indent=2)
            file.write(document.encode() + b"\n")
        print(f"{printable(str(path))}: {len(said)} messages", flush=True)

    def turn(self, text: str, read: Callable[[str], str]) -> None:
        """One question and its answer, by all lanes; the conversation goes on with one."""
        with common.told_if_slow("reading the conversation"):
            decoding = self.ask(text)
        shown = Shown(decoding, self.args.plain, several=self.method is not None)
        try:
            interrupted, failed = generate_loop.decode(decoding, shown)
            if failed is not None:
                raise failed
        except TinylaneError:
            self.messages.pop()  # the question has no answer
            raise
        if self.method is not None:
            text = self.answer(decoding.result())
        else:
            lanes = decoding.lanes
            text = lanes[0].text if len(lanes) == 1 else pick(decoding, read).text
        self.messages.append({"role": "assistant", "content": text})
        self.tell(decoding, interrupted)

    def answer(self, result: Result) -> str:
        """The text with which the method answers."""
        from tinylane.evaluate.answers import answering
        from tinylane.serve.answers import answer_of

        text, _ = answer_of(str(self.method), result)
        judged = answering(str(self.method), result)
        whose = f"lane {judged[0].index + 1} answers" if len(judged) == 1 else "the answer"
        common.say(f"[{whose}, {self.method}]", flush=True)
        return text

    def ask(self, text: str) -> Decoding:
        """The lanes that are to answer; the question is part of the conversation then."""
        from tinylane.methods import prepare, start
        from tinylane.methods.decoding import Decoding

        n, model, most = self.lanes, self.model, self.args.max_tokens
        messages = [*self.messages, {"role": "user", "content": text}]
        settings: dict[str, Any] = {
            "max_tokens": most,
            "seed": self.seed + len(messages) // 2,
            "stop": shared_flags.stop(self.args, model),
            "template": self.template,
        }
        if self.method is not None:
            setup = prepare(model, self.method, n, most)
            mask = setup.settings.get("lane_mask") or model.mask(setup.lanes)
            settings |= {"sampler": self.sampler(n, mask), "cache": self.kept(setup.settings)}
            decoding = start(model, messages, setup, **settings)
        else:
            rope, mask, prompts = None, LaneMask.independent(n), [""] * n
            if self.lanes_asked:
                rope, named = lane_flags.settings(self.args, model, n, most)
                mask, prompts = named or model.mask(n), model.lane_prompts(n)
            lanes = {"lane_rope": rope, "lane_mask": mask, "lane_prompts": prompts}
            settings |= {"sampler": self.sampler(n, mask), "cache": self.kept(lanes)}
            decoding = Decoding(model, messages, n, **lanes, **settings)
        self.messages, self.cache = messages, decoding.cache
        return decoding

    def kept(self, lanes: dict[str, Any]) -> Any:
        """The cache of the turn before; of the prompt alone where lanes are turned otherwise."""
        from tinylane.core.lanes import SHARED

        cache = self.cache
        if cache is not None:
            mask = lanes.get("lane_mask")
            if not self.model.rope(lanes.get("lane_rope"), mask).same_as(cache.lane_rope):
                cache.keep(cache.lanes == SHARED)
        return cache

    def sampler(self, n: int, mask: LaneMask) -> Sampler:
        """As the checkpoint samples and the flags say; never the same greedy text n times."""
        from tinylane.core.sampling import Sampler

        usual = replace(Sampler.from_config(self.model.sampling), **self.given)
        if n > 1 and mask.alone and usual.temperature == 0 and "temperature" not in self.given:
            return replace(usual, temperature=WARM)
        return usual

    def tell(self, decoding: Decoding, interrupted: bool) -> None:
        """A line about the answer: what was computed anew, and how fast it was."""
        if self.args.quiet:
            return
        drawn = sum(len(lane.tokens) for lane in decoding.lanes)
        new = len(decoding.prompt) - decoding.reused
        line = f"prompt {len(decoding.prompt)} tokens, {new} of them new; {drawn} drawn"
        if decoding.seconds:
            line += f", {drawn / decoding.seconds:.1f}/s"
        common.note(f"{line}{'; interrupted' if interrupted else ''}; seed {decoding.seed}")


def pick(decoding: Decoding, read: Callable[[str], str]) -> Lane:
    """The lane to go on with: as the reader says, else by vote where lanes mark their answers by
    \\boxed{} or ####, else the likeliest. Without a terminal nobody is asked.
    """
    from tinylane.evaluate.answers import best_of, vote

    result = decoding.result()
    lane, why = best_of(result), "the likeliest"
    marked = any("\\boxed" in x.text or "####" in x.text for x in result.lanes)
    voted = vote(result) if marked else None
    if voted is not None and voted.lane is not None:
        lane, why = result.lanes[voted.lane], f"by vote: {printable(voted.text or '')}"
    while sys.stdin.isatty():
        try:
            said = read(f"go on with lane 1-{len(result.lanes)} [{lane.index + 1}, {why}]: ")
        except (KeyboardInterrupt, EOFError):
            said = ""
        if not said.strip():
            break
        if said.strip().isdecimal() and 1 <= int(said[:9]) <= len(result.lanes):
            return result.lanes[int(said) - 1]
    common.say(f"[lane {lane.index + 1}, {why}]", flush=True)
    return lane


class Shown:
    """An answer as it is written: one lane's text as it comes, several lanes side by side."""

    def __init__(self, decoding: Decoding, plain: bool, several: bool = False) -> None:
        from tinylane.commands.terminal import Columns, Lines

        side = (len(decoding.lanes) > 1 or several) and sys.stdout.isatty() and not plain
        self.labels: list[str] = []
        self.columns = Columns([]) if side else None
        self.settle(decoding)
        self.lines = None if side else Lines(self.labels, several=several)

    def __enter__(self) -> Shown:
        if self.columns is not None:
            self.columns.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.lines is not None:
            self.lines.close()
        if self.columns is not None:
            self.columns.__exit__(*error)

    def step(self, decoding: Decoding, step: Step) -> None:
        """Show what a step gave."""
        self.settle(decoding)
        if self.lines is not None:
            self.lines.add(step.texts, step.finished)
        if self.columns is not None:
            self.columns.draw()

    def settle(self, decoding: Decoding) -> None:
        """How every lane stands; names for lanes that have joined."""
        self.labels += [f"lane {m + 1}" for m in range(len(self.labels), len(decoding.lanes))]
        if self.columns is not None:
            from tinylane.commands.terminal import LaneView

            self.columns.views[:] = [
                LaneView(label, lane.text, lane.finish_reason or "")
                for label, lane in zip(self.labels, decoding.lanes, strict=True)
            ]
