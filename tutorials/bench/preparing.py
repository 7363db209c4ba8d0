"""How long the work before the first step takes: chat templates, transcripts, problems.

    python tutorials/bench/preparing.py FOLDER [gsm8k.jsonl]

FOLDER: a checkpoint with a chat template, or its tokenizer's files; no weights are read. The
transcripts are 12,000 chats of four lanes, made here; the problems are those of the file.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tinylane.checkpoints.config_json import read_config  # noqa: E402
from tinylane.checkpoints.tokenizer import Tokenizer  # noqa: E402
from tinylane.train.data import read_transcripts  # noqa: E402

TRANSCRIPTS, PROMPTS = 12_000, 5_000
TEXT = "add these numbers and say which of the four cups holds the ball after all swaps"


def text_model(folder: Path) -> Any:
    """What reading transcripts needs of a checkpoint's model: configuration and tokenizer."""
    config: Any = SimpleNamespace(eos_ids=(), vocab=None, context=32768)
    if (folder / "config.json").exists():
        config = read_config(folder)
    tokenizer = Tokenizer.from_folder(folder, config.eos_ids, config.vocab)
    return SimpleNamespace(config=config, tokenizer=tokenizer)


def transcript(k: int) -> dict[str, Any]:
    """A chat of about 60 tokens and four lanes of about 50."""
    draw = random.Random(k)
    say = lambda count: " ".join(draw.choices(TEXT.split(), k=count))
    messages = [{"role": "user", "content": f"{k}. {say(40)}?"}]
    return {"messages": messages, "lanes": [f"{k + m}: {say(40)}" for m in range(4)]}


def processes_started() -> list[subprocess.Popen]:
    """A list that every process started from here on is added to."""
    started: list[subprocess.Popen] = []

    class Counted(subprocess.Popen):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            started.append(self)

    subprocess.Popen = Counted  # type: ignore[misc]
    return started


def main(folder: Path, problems: Path | None) -> None:
    started, model = processes_started(), text_model(folder)
    ask = model.tokenizer.prompt_ids
    began = time.perf_counter()
    ask("The first prompt starts the process.")
    print(f"first prompt: {1000 * (time.perf_counter() - began):.0f} ms")
    texts = [transcript(k)["messages"][0]["content"] for k in range(PROMPTS)]
    began = time.perf_counter()
    for text in texts:
        ask(text)
    spent = time.perf_counter() - began
    began = time.perf_counter()
    for text in texts:
        ask(text, raw=True)
    raw = time.perf_counter() - began
    print(f"prompts: {PROMPTS / spent:,.0f}/s; without a template {PROMPTS / raw:,.0f}/s")
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "transcripts.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(transcript(k)) + "\n" for k in range(TRANSCRIPTS))
        began = time.perf_counter()
        count = len(read_transcripts(path, model).transcripts)
    print(f"{count:,} transcripts: {time.perf_counter() - began:.1f} s")
    if problems is not None:
        from tinylane.evaluate import runner, tasks
        from tinylane.evaluate.tasks.task import Options

        began = time.perf_counter()
        task = tasks.make("gsm8k", Options(data=str(problems)), model)
        found = task.problems(None, 0)
        runner.check_prompts(model, found)
        unread = sum(not task.readable(problem.truth) for problem in found)
        spent = time.perf_counter() - began
        print(f"{len(found):,} problems: {spent:.1f} s; {unread} answers are no mathematics")
    print(f"processes started: {len(started)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
