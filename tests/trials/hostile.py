"""A corpus of hostile inputs, and what the package does with each of them.

    python tests/trials/hostile.py FOLDER                     make the corpus and try all of it
    python tests/trials/hostile.py FOLDER --only tokenizer    one category
    python tests/trials/hostile.py --mutations 1000000 --seed 7

Every input must be refused by one clear line (TinylaneError), in 2 s of processor time and 200 MiB,
without running anything, opening a file outside its folder or changing one. Each category is tried
in a process of its own, so that a crash ends that process and not the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

from helpers_cli import GAME
from hostile_corpus import make
from hostile_templates import CANARY

from tinylane.core.errors import TinylaneError

SECONDS, MEMORY = 2.0, 200  # of processor time; MiB
PROMPT = "cups ABC, swap 1-2 cccccccccccccccccccccccccccccccc: where?"


@dataclass
class Outcome:
    """kind: refused, accepted or crashed. seconds: processor time, children included."""

    category: str
    name: str
    kind: str
    message: str
    seconds: float = 0.0
    wall: float = 0.0
    memory: float = 0.0  # MiB above what the process had
    opened: tuple[str, ...] = ()  # outside the folder


class Reader:
    """How an input of each category is read, to the end: a tensor, a prompt, a step."""

    def __init__(self, root: Path) -> None:
        from tinylane.checkpoints.load import load

        self.base = root / "base"
        self.model = load(self.base, backend="numpy")

    def read(self, category: str, path: Path) -> str:
        method = {"prefix": "safetensors", "own adapter": "checkpoint"}.get(category, category)
        if category in ("weights", "index", "config", "tokenizer"):
            method = "checkpoint"
        return getattr(self, method)(path) or ""

    def safetensors(self, path: Path) -> None:
        from tinylane.files.safetensors import TensorFile

        with TensorFile(path) as file:
            for name in file.tensors:
                file[name].read()

    def checkpoint(self, path: Path) -> str:
        from tinylane.checkpoints.load import load

        return self.use(load(path, backend="numpy"))

    def use(self, model: Any) -> str:
        """A prompt through the tokenizer, two lanes, two steps."""
        from tinylane.evaluate.tasks.shell_game_task import game_of
        from tinylane.methods.decoding import Decoding

        game_of(model)
        prompt = PROMPT if model.tokenizer is not None else [1, 2]
        decoding = Decoding(model, prompt, 2, max_tokens=2)
        for _ in decoding:
            pass
        return " ".join(lane.text for lane in decoding.result().lanes)

    def template(self, path: Path) -> str:
        from tinylane.checkpoints.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_folder(path, vocab=len(GAME.vocabulary))
        return tokenizer.decode(tokenizer.prompt_ids(PROMPT))

    def adapter(self, path: Path) -> str:
        from tinylane.checkpoints.load import load

        return self.use(load(self.base, backend="numpy", adapter=path))

    def cache(self, path: Path) -> None:
        from tinylane.files.cache_file import load_cache

        cache = load_cache(path, self.model)
        last = int(cache.positions.max()) + 1
        self.model([1, 1], [last, last], [0, 1], cache=cache)

    def run(self, path: Path) -> None:
        from tinylane.view.replay import replay
        from tinylane.view.run_file import load_run

        replay(load_run(path), self.model)

    def problems(self, path: Path) -> None:
        from tinylane.evaluate.tasks.gsm8k import task
        from tinylane.evaluate.tasks.task import Options

        task(Options(data=str(path), compare="exact")).problems(None, 0)

    def transcripts(self, path: Path) -> None:
        from tinylane.train.data import read_transcripts

        read_transcripts(path, self.model, labels=True)

    def results(self, path: Path) -> None:
        from tinylane.evaluate import report
        from tinylane.evaluate.shards import find_runs

        runs = [report.read(run) for run in find_runs([path])]
        report.page(report.sections(runs), {})

    def prompt(self, path: Path) -> None:
        GAME.parse(path.read_text(encoding="utf-8", errors="surrogatepass"))

    def matrix(self, path: Path) -> None:
        from tinylane.commands.shared_flags import parse_visibility

        parse_visibility(f"@{path}")


class Watch:
    """What the interpreter opens and starts, by audit hook: everything outside a few folders."""

    # The template's own process, and what Python, NumPy and the loader ask the system.
    SYSTEM = ("/proc/", "/sys/", "/dev/null", "/etc/localtime", "/usr/share/zoneinfo")

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        own = {sys.prefix, sys.base_prefix, *sys.path, str(Path(__file__).parents[2])}
        self.interpreter = tuple(os.path.join(os.path.abspath(p), "") for p in own)
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.allowed:
            return
        if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove"):
            if not isinstance(args[0], (str, bytes, os.PathLike)):
                return
            path = os.path.realpath(os.fsdecode(args[0]))
            inside = (*self.allowed, *self.interpreter, *self.SYSTEM)
            if not os.path.join(path, "").startswith(inside):
                self.seen.append(f"{event} {path}")
        elif event in ("os.system", "os.exec", "os.fork", "pickle.find_class"):
            self.seen.append(f"{event} {args}")
        elif event in ("subprocess.Popen", "os.posix_spawn"):
            worker = [sys.executable, "-I", "-S", "worker_program.py"]
            argv = [*args[1][:-1], os.path.basename(args[1][-1])]
            if argv != worker:
                self.seen.append(f"{event} {argv}")
        elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
            self.seen.append(f"{event} {args}")

    @contextlib.contextmanager
    def during(self, *folders: Path) -> Iterator[list[str]]:
        self.seen = []
        tempfile.tempdir = str(folders[0] if folders[0].is_dir() else folders[0].parent)
        self.allowed = tuple(os.path.join(os.path.realpath(f), "") for f in folders)
        try:
            yield self.seen
        finally:
            self.allowed, tempfile.tempdir = (), None


def try_all(root: Path, categories: list[str], only: str | None = None) -> Iterator[Outcome]:
    """Every input of some categories, in this process."""
    corpus = json.loads((root / "corpus.json").read_text())
    os.environ[CANARY] = "the canary sings"
    reader, watch = Reader(root), Watch()
    reader.template(root / "base")  # imports, before anything is measured
    gc.collect()
    gc.freeze()
    cases = [(c, name, where) for c in categories for name, where in corpus[c].items()]
    for category, name, where in cases:
        if only not in (None, name):
            continue
        path = Path(where)
        folders = [path] if category not in ("adapter", "cache", "run") else [path, root / "base"]
        faulthandler.dump_traceback_later(30, exit=True)
        gc.collect()
        before, cpu, wall = _reset_peak(), sum(os.times()[:4]), time.monotonic()
        with watch.during(*folders) as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                kind, message = "accepted", reader.read(category, path)
            except TinylaneError as error:
                kind, message = "refused", str(error)
            except MemoryError:
                kind, message = "crashed", "MemoryError"
            except BaseException:  # a panic of the tokenizers library is no Exception
                kind, message = "crashed", traceback.format_exc()
        used = sum(os.times()[:4]) - cpu
        faulthandler.cancel_dump_traceback_later()
        yield Outcome(
            category,
            name,
            kind,
            message,
            used,
            time.monotonic() - wall,
            (_peak() - before) / 2**20,
            tuple(seen),
        )


def _peak() -> int:
    """The most bytes this process has held, since `_reset_peak` where the system can tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def faults(outcome: Outcome) -> list[str]:
    """What is wrong with an outcome; empty if the input was refused as it should be."""
    wrong = []
    if outcome.kind != "refused":
        wrong.append(f"{outcome.kind}: {outcome.message}")
    elif "\n" in outcome.message or not outcome.message.isprintable():
        wrong.append(f"not one clear line: {outcome.message!r}")
    elif not 10 <= len(outcome.message) <= 1000:
        wrong.append(f"a line of {len(outcome.message)} characters")
    if "canary" in outcome.message or CANARY in outcome.message:
        wrong.append("it tells the environment")
    if outcome.seconds > SECONDS:
        wrong.append(f"{outcome.seconds:.1f} s of processor time")
    if outcome.memory > MEMORY:
        wrong.append(f"{outcome.memory:.0f} MiB")
    return [*wrong, *outcome.opened]


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Every file of the corpus with its size and time of change."""
    files = {}
    for folder, _, names in os.walk(root):
        for name in names:
            info = os.lstat(os.path.join(folder, name))
            files[os.path.join(folder, name)] = (info.st_size, info.st_mtime_ns)
    return files


def try_apart(root: Path, categories: list[str], timeout: float = 300) -> tuple[list[Outcome], str]:
    """In a process of its own: the outcomes, and what is wrong with the process itself."""
    env = {**os.environ, "RUST_BACKTRACE": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, __file__, str(root), "--worker", "--only", *categories]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, env=env
        )
        out, trouble = done.stdout, "" if done.returncode == 0 else done.stderr[-2000:]
    except subprocess.TimeoutExpired as error:
        out, trouble = (error.stdout or b"").decode(errors="replace"), f"after {timeout} s"
    lines = out.splitlines()
    outcomes = [Outcome(**{**(o := json.loads(x)), "opened": tuple(o["opened"])}) for x in lines]
    corpus = json.loads((root / "corpus.json").read_text())
    names = [f"{category}: {name}" for category in categories for name in corpus[category]]
    if len(outcomes) < len(names):
        trouble = f"ended at {names[len(outcomes)]} {trouble}"
    return outcomes, trouble


def summary(outcomes: list[Outcome]) -> Iterator[str]:
    """A line for each category, then the totals."""
    for category in dict.fromkeys(o.category for o in outcomes):
        some = [o for o in outcomes if o.category == category]
        slow, big = max(o.seconds for o in some), max(o.memory for o in some)
        bad = sum(bool(faults(o)) for o in some)
        yield (
            f"{category:12} {len(some):4} inputs, {bad} at fault, at most {slow:.2f} s "
            f"and {big:.0f} MiB"
        )
    crashed = sum(o.kind == "crashed" for o in outcomes)
    hung = sum(o.seconds > SECONDS for o in outcomes)
    yield f"{len(outcomes)} hostile inputs tried, {crashed} crashes, {hung} hangs"


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path, nargs="?", help="made, if it does not exist")
    p.add_argument("--only", metavar="CATEGORY", nargs="+")
    p.add_argument("--name", help="one input of the category")
    p.add_argument("--worker", action="store_true", help="outcomes as JSON lines")
    p.add_argument("--mutations", type=int, metavar="N")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    if args.mutations is not None:
        import hostile_mutations

        return hostile_mutations.main(args.mutations, args.seed)
    if args.folder is None:
        p.error("a folder for the corpus is missing")
    if args.worker:
        for outcome in try_all(args.folder, args.only, args.name):
            print(json.dumps(asdict(outcome)), flush=True)
        return 0
    args.folder = args.folder.resolve()  # links of the corpus name it
    if not args.folder.exists():
        args.folder.mkdir(parents=True)
        make(args.folder)
    corpus = json.loads((args.folder / "corpus.json").read_text())
    before, outcomes, bad = state(args.folder), [], 0
    for categories in [args.only] if args.only else [[c] for c in corpus]:
        some, trouble = try_apart(args.folder, categories)
        outcomes += some
        for outcome in some:
            for fault in faults(outcome):
                print(f"{outcome.category}: {outcome.name}: {fault}")
                bad += 1
        if trouble:
            print(trouble)
            bad += 1
    after = state(args.folder)
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    for path in sorted(changed):
        print(f"changed: {path}")
    print("\n".join(summary(outcomes)))
    return 1 if bad or changed else 0


if __name__ == "__main__":
    sys.exit(main())
