"""The jobs of `accidents.py`: a command each, and what its folder may hold after an accident.

A job says how to run it in a folder, and what must be in the folder in the end (`outcome`, compared
with that of an undisturbed run). At any instant every file must be absent, old or whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helpers_eval
import numpy as np
from helpers_cli import GAME, write_checkpoint
from helpers_hub import FILES, Server

from tinylane.commands.cli import main
from tinylane.evaluate.tasks.shell_game import END
from tinylane.files.safetensors import TensorFile

TIMES = ("seconds", "prefill_seconds", "clock", "tokens_per_second", "seconds_left", "peak_memory")
Argv = list[str]


@dataclass
class Job:
    """run: in a folder; returns the exit code. prepare: fills the folder before. mlx: needs MLX."""

    name: str
    run: Callable[[Path], int]
    outcome: Callable[[Path], Any]
    prepare: Callable[[Path], None] = lambda folder: None
    mlx: bool = False
    argv: Callable[[Path], Argv] | None = None
    where: Callable[[Path], Path] = lambda folder: folder  # what it writes
    unchanged: bool = False  # it only reads
    two_states: bool = False  # a file that is not the old one must be the new one


class Faulty(AssertionError):
    """A file that is neither absent nor old nor whole."""


def whole(path: Path) -> None:
    """Raise unless the file is whole, by its kind."""
    inside = path.parts[path.parts.index("snapshots") + 2 :] if "snapshots" in path.parts else ()
    try:
        if inside:  # of the stand-in hub
            assert path.read_bytes() == FILES["/".join(inside)], "half of it under its own name"
            return
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with TensorFile(path) as tensors:
                for name in tensors.tensors:
                    tensors[name].read()
        elif path.suffix == ".jsonl":  # appended to: whole lines, and at most one that was torn
            *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
            for line in lines:
                json.loads(line)
    except Exception as error:
        raise Faulty(f"{path.name}: {type(error).__name__}: {error}") from error


def temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def plain(row: Any) -> Any:
    """A line or document without measured times."""
    if isinstance(row, dict):
        return {k: plain(v) for k, v in row.items() if k not in TIMES}
    return [plain(v) for v in row] if isinstance(row, list) else row


def lines(path: Path) -> list[Any]:
    return [plain(json.loads(line)) for line in path.read_text().splitlines()]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Materials:
    """Checkpoints and data, made once in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.game = write_checkpoint(folder / "game")
        self.words = helpers_eval.checkpoint(folder / "words")
        rows = [json.dumps({"question": q, "answer": a}) for q, a in helpers_eval.QUESTIONS]
        self.questions = folder / "questions.jsonl"
        self.questions.write_text("\n".join(rows) + "\n")
        rng, drawn = np.random.default_rng(0), []
        for k in range(12):
            moves = GAME.draw(1, rng)
            written, good = GAME.write(moves, 2)[0], k % 3 > 0
            if not good:
                written = rng.permutation(written.ravel()).reshape(written.shape)
            texts = [" ".join(GAME.arrangements[a] for a in lane) for lane in written]
            tags = GAME.lane_prompts(2)
            prompt = GAME.prompt(moves[0])
            line = {"prompt": prompt, "lanes": texts, "lane_prompts": tags, "label": good}
            drawn.append(line)
        self.transcripts = folder / "transcripts.jsonl"
        self.transcripts.write_text("".join(json.dumps(x) + "\n" for x in drawn))
        self.hub_home = folder / "home"

    def asked(self) -> list[str]:
        """The flags of eval and collect."""
        argv = ["gsm8k", "--data", self.questions, "--model", self.words, "--backend", "numpy"]
        argv += ["--compare", "exact", "--max-tokens", 10, "--logit-bias", *helpers_eval.BIAS]
        return [str(word) for word in argv]

    def tune(self, task: str, out: Path, *more: object) -> list[str]:
        argv = ["train", task, "--model", self.game, "--data", self.transcripts, "--out", out]
        argv += ["--steps", 12, "--warmup", 2, "--every", 1, "--save-every", 2, "--quiet"]
        return [str(word) for word in (*argv, "--batch-size", 4, "--lora-rank", 2, *more)]

    def scratch(self, out: Path, *more: object) -> list[str]:
        argv = ["train", "shell-game", "--out", out, "--quiet", "--every", 1, "--save-every", 2]
        argv += ["--swaps", 4, "--lanes", 1, 2, "--shares", 0.5, 0.5, "--width", 16, "--layers", 2]
        argv += ["--heads", 2, "--kv-heads", 1, "--head-dim", 8, "--mlp-width", 32, "--steps", 8]
        argv += ["--warmup", 2, "--rows", 128, "--check-every", 4]
        return [str(word) for word in (*argv, *more)]

    def generate(self, file: Path, seed: int = 1) -> list[str]:
        argv = ["generate", "--model", self.game, "--backend", "numpy", "--lanes", 4, "--quiet"]
        argv += ["--seed", seed, "--prompt", "1-2 2-3 1-3 2-3", "--temp", 1, "--save", file]
        return [str(word) for word in (*argv, "--logit-bias", f"{GAME.ids[END]}:-inf", "-m", 30)]


def command(argv: Callable[[Path], Argv]) -> Callable[[Path], int]:
    return lambda folder: main(argv(folder))


def jobs(m: Materials) -> list[Job]:
    """In the order in which they are shown."""
    return [download(m), load(m), save(m), cache(m), *runs(m)]


def download(m: Materials) -> Job:
    """huggingface_hub's cache lies in one place for the process; it is emptied before each."""

    def run(folder: Path) -> int:
        from tinylane.checkpoints.hub import resolve

        resolve("owner/model")
        return 0

    def outcome(folder: Path) -> Any:
        return {str(p.relative_to(snapshots)): digest(p) for p in files(snapshots)}

    def prepare(folder: Path) -> None:
        shutil.rmtree(m.hub_home, ignore_errors=True)

    snapshots = m.hub_home / "hub" / "models--owner--model" / "snapshots"
    return Job("download", run, outcome, prepare, where=lambda folder: snapshots)


def load(m: Materials) -> Job:
    """Reading changes nothing."""

    def run(folder: Path) -> int:
        import tinylane

        for adapter in (None, str(m.game / "adapter")):
            model = tinylane.load(folder / "model", backend="numpy", adapter=adapter)
            assert model.config.layers == 2
        return 0

    def outcome(folder: Path) -> Any:
        return {p.name: digest(p) for p in files(folder / "model")}

    def prepare(folder: Path) -> None:
        shutil.copytree(m.game, folder / "model")

    return Job("load", run, outcome, prepare, unchanged=True)


def save(m: Materials) -> Job:
    """`generate --save` over the run of another seed."""
    argv = lambda folder: m.generate(folder / "run.json")

    def prepare(folder: Path) -> None:
        old = m.folder / "old-run.json"
        if not old.exists():
            assert main(m.generate(old, seed=0)) == 0
        shutil.copy(old, folder / "run.json")

    return Job(
        "generate --save",
        command(argv),
        lambda folder: plain(json.loads((folder / "run.json").read_text())),
        prepare,
        argv=argv,
        two_states=True,
    )


def cache(m: Materials) -> Job:
    """`LaneCache.save` over another cache, after the file that is there is loaded."""

    def filled(rows: int) -> Any:
        import tinylane
        from tinylane.core.cache import LaneCache

        model = tinylane.load(m.game, backend="numpy")
        cache = model.new_cache(model.rope())
        for k in range(rows):
            model(np.arange(8) % 20, np.arange(8), np.full(8, k), cache=cache)
        return model, cache, LaneCache

    def run(folder: Path) -> int:
        model, cache, kind = filled(200)
        file = folder / "cache.safetensors"
        if len(kind.load(file, model)) not in (8, 1600):
            raise Faulty("a cache of another size")
        for _ in range(3):
            cache.save(file)
        return 0

    def prepare(folder: Path) -> None:
        old = m.folder / "old.safetensors"
        if not old.exists():
            filled(1)[1].save(old)
        shutil.copy(old, folder / "cache.safetensors")

    return Job(
        "cache save",
        run,
        lambda folder: digest(folder / "cache.safetensors"),
        prepare,
        two_states=True,
    )


def runs(m: Materials) -> list[Job]:
    """Everything with a run directory."""

    def evaluated(folder: Path) -> Any:
        return lines(folder / "run" / "results.jsonl")

    def trained(folder: Path) -> Any:
        out = folder / "run"
        losses = [[e["step"], e["loss"]] for e in lines(out / "log.jsonl")]
        tensors = {str(p.relative_to(out)): digest(p) for p in files(out) if p.name in WEIGHTS}
        return [losses, tensors]

    table: list[tuple[str, Callable[[Path], Argv], Callable[[Path], Any], bool]] = [
        ("eval", lambda f: ["eval", *m.asked(), "--lanes", "1", "2"], evaluated, False),
        (
            "collect",
            lambda f: ["collect", *m.asked(), "--lanes", "2", "--samples", "2", "--temp", "1"],
            evaluated,
            False,
        ),
        ("train shell-game", lambda f: m.scratch(f / "run"), trained, True),
        ("train sft", lambda f: m.tune("sft", f / "run"), trained, True),
        ("train kto", lambda f: m.tune("kto", f / "run"), trained, True),
    ]
    made = []
    for name, argv, outcome, mlx in table:
        if not mlx:
            argv = lambda f, argv=argv: [*argv(f), "--quiet", "--out", str(f / "run")]
        made.append(Job(name, command(argv), outcome, mlx=mlx, argv=argv))
    return made


WEIGHTS = ("model.safetensors", "adapters.safetensors")


def serve(port_file: Path) -> None:
    """The stand-in hub, until the process is killed."""
    server = Server()
    port_file.write_text(str(server.server_port))
    server.serve_forever()


def environment(home: Path, port: int) -> None:
    """What huggingface_hub reads when it is imported."""
    for name in [k for k in os.environ if k.startswith(("HF_", "HUGGING"))]:
        del os.environ[name]
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "*",
    }
