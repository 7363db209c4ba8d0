"""Every input of the hostile corpus through the command line: exit 2 and one line.

    python tests/trials/hostile_commands.py FOLDER     the corpus is made there, if there is none

`hostile.py` reads each input with the package's functions, and watches what is opened. Here the
command that a user would give it to is run, each in a process of its own (a fork that has imported
the package): its exit code, what it prints on standard error, its processor time, and its memory
beyond that of the process it was forked from. A category that no command takes is read from the
place in a checkpoint where it belongs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

import hostile
from accidents_soak import resident
from hostile import MEMORY, SECONDS
from hostile_corpus import make

Argv = list[str]
IMPORTS = ["tinylane.commands.generate", "tinylane.commands.eval", "tinylane.commands.replay"]
IMPORTS += ["tinylane.commands.train", "tinylane.commands.report", "tinylane.train.loop"]
IMPORTS += ["tinylane.evaluate.runner", "mlx.core", "mlx.optimizers", "tokenizers", "matplotlib"]
SHORT = ["--max-tokens", "2", "--quiet", "--backend", "numpy"]


def commands(root: Path) -> dict[str, Callable[[str], Argv]]:
    """What a user would do with an input, by category."""
    base, out = str(root / "base"), str(root / "out")

    def generate(path: str) -> Argv:
        return ["generate", "--model", path, "--prompt", hostile.PROMPT, *SHORT, "--raw"]

    def weights(path: str) -> Argv:  # a single file, as the weights of the base
        folder = root / "single"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder, copy_function=os.link)
        (folder / "model.safetensors").unlink()
        os.link(path, folder / "model.safetensors")
        return generate(str(folder))

    def based(*words: str) -> Argv:
        return ["generate", "--model", base, *words, *SHORT]

    def evaluate(path: str) -> Argv:
        words = ["eval", "gsm8k", "--data", path, "--compare", "exact", "--model", base, "--quiet"]
        return [*words, "--max-tokens", "2", "--backend", "numpy", "--out", out]

    def tune(path: str) -> Argv:
        return ["train", "kto", "--model", base, "--data", path, "--out", out, "--steps", "1"]

    def played(path: str) -> Argv:  # as a game, if it says that it is one
        return [word for word in generate(path) if word != "--raw"]

    by_category = dict.fromkeys(("weights", "index", "config", "tokenizer"), generate)
    return by_category | {
        "own adapter": played,
        "template": played,
        "prefix": weights,
        "safetensors": weights,
        "adapter": lambda path: based("--prompt", hostile.PROMPT, "--adapter-path", path),
        "matrix": lambda path: based("--prompt", hostile.PROMPT, "--visibility", f"@{path}"),
        "prompt": lambda path: [
            *("generate", "--model", base, "--backend", "numpy", "--quiet", "--prompt"),
            Path(path).read_text(encoding="utf-8", errors="surrogatepass"),
        ],
        "run": lambda path: ["replay", path, "--model", base, "--backend", "numpy"],
        "problems": evaluate,
        "transcripts": tune,
        "results": lambda path: ["report", path, "--no-plots"],
    }


def ask(argv: Argv, said: Path) -> tuple[int, str, float, float]:
    """Exit code, what standard error says, processor time with its children's, MiB above ours."""
    from tinylane.commands.cli import main

    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.stdout, sys.stderr = (open(k, "w", 1, closefd=False) for k in (1, 2))  # noqa: SIM115
            signal.alarm(60)
            code = main(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    text = said.read_text(encoding="utf-8", errors="backslashreplace")
    above = used.ru_maxrss / 1024 - resident() / 2**20
    return os.waitstatus_to_exitcode(status), text, used.ru_utime + used.ru_stime, above


def faults(code: int, said: str, seconds: float, memory: float) -> list[str]:
    """What is wrong with an answer."""
    wrong = []
    if code != 2:
        wrong.append(f"exit code {code}: {said[-300:]!r}")
    elif not said.startswith("tinylane: error: ") or said.count("\n") != 1:
        wrong.append(f"not one line: {said[:300]!r}")
    elif not said[:-1].isprintable():
        wrong.append(f"not clear text: {said!r}")
    if seconds > SECONDS:
        wrong.append(f"{seconds:.1f} s of processor time")
    if memory > MEMORY:
        wrong.append(f"{memory:.0f} MiB")
    return wrong


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    root = Path(sys.argv[1]).resolve()  # links of the corpus name it
    if not root.exists():
        root.mkdir(parents=True)
        make(root)
    corpus = json.loads((root / "corpus.json").read_text())
    for name in IMPORTS:
        import_module(name)
    before, bad, count, asked = hostile.state(root), 0, 0, commands(root)
    for category, inputs in corpus.items():
        if category not in asked:
            print(f"{category:12} {len(inputs):4} inputs, no command reads them: see hostile.py")
            continue
        slow = big = 0.0
        for name, path in inputs.items():
            code, said, seconds, memory = ask(asked[category](path), root / "said")
            slow, big, count = max(slow, seconds), max(big, memory), count + 1
            for fault in faults(code, said, seconds, memory):
                bad += 1
                print(f"{category}: {name}: {fault}")
        print(
            f"{category:12} {len(inputs):4} inputs, at most {slow:.2f} s, {big:.0f} MiB", flush=True
        )
    shutil.rmtree(root / "single")
    shutil.rmtree(root / "out", ignore_errors=True)
    (root / "said").unlink()
    after = hostile.state(root)
    for path in sorted(p for p in {*before, *after} if before.get(p) != after.get(p)):
        print(f"changed: {path}")
        bad += 1
    print(f"{count} inputs through the command line, {bad} at fault")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
