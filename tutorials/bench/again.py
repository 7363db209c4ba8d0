"""Make every figure of the page of times again, on this machine, one command after the other.

    python tutorials/bench/again.py OUT               runs what OUT has not yet; hours on two cores
    python tutorials/bench/again.py OUT --only mlx    the commands with that word
    python tutorials/bench/again.py OUT --list

The commands are those of the page's last block (tutorials/site/speed.md) and MORE. What each prints
is in OUT/NAME.txt, with the time, the processor's time and the peak of memory at the end. Nothing
else should run on the machine meanwhile: machine.txt there says what it was, and how busy.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from tinylane.commands.bench_machine import describe, environment

ROOT = Path(__file__).parents[2]
LONG = "--raw --logit-bias 0:-100 2:-100 --json"
MORE = [
    "python tutorials/bench/ops.py numpy",
    "python tutorials/bench/ops.py mlx",
    "python tutorials/bench/sampling.py",
    # As the page has them on NumPy, on MLX: 64 lanes of 512 tokens, and a prompt of 8,000.
    f'tinylane generate --model $model --backend mlx {LONG} --prompt "Once upon a time" '
    "--lanes 64 --max-tokens 512 --temp 1 --seed 1 > lanes-mlx.json",
    "python -c \"print(' the' * 8000, end='')\" | tinylane generate --model $model --backend mlx "
    f"{LONG} --prompt - --max-tokens 64 > long-mlx.json",
    "python tutorials/bench/many_results.py many --problems 50000",
    "tinylane eval shell-game --count 50000 --lanes 4 --mode joint independent --out many",
    "tinylane report many",
]


def commands() -> list[str]:
    """Those of the page, then MORE."""
    page = (ROOT / "tutorials" / "site" / "speed.md").read_text(encoding="utf-8")
    block = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[-1]
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
    return [line for line in lines if not line.startswith(("model=", "pip "))] + MORE


def name_of(command: str, number: int) -> str:
    """A file's name for a command: its number and its words."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", command.split(">")[0])
    return f"{number:02}-{words.strip('-')[:80]}.txt"


def run(command: str, file: Path, model: str) -> int:
    """Run a command in the folder of its file and write what it prints; its exit code."""
    env = environment("mlx" if "mlx" in command else "numpy", os.cpu_count() or 1)
    env |= {"model": model, "PYTHONPATH": str(ROOT)}
    script = command.replace("tutorials/bench", str(ROOT / "tutorials" / "bench"))
    functions = (
        f'python() {{ "{sys.executable}" "$@"; }}; tinylane() {{ python -m tinylane "$@"; }}'
    )
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {functions}; {script}"],
        cwd=file.parent, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = (
        1 if sys.platform == "darwin" else 1024
    )  # of ru_maxrss, which is the largest child so far
    spent = (
        f"{time.monotonic() - began:.1f} s, processor {after.ru_utime - before.ru_utime:.1f} s, "
        f"peak of all so far {after.ru_maxrss * unit / 2**20:.0f} MiB, exit {done.returncode}"
    )
    text = f"$ {command}\n{done.stdout}{done.stderr}\n# {spent}\n"
    file.with_suffix(".part").write_text(text)
    if done.returncode == 0:
        file.with_suffix(".part").rename(file)
    print(f"{file.name}: {spent}", flush=True)
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--model", help="SmolLM2's folder; default: tutorials/smollm2.py makes it")
    args = parser.parse_args()
    chosen = [(name_of(c, k), c) for k, c in enumerate(commands(), 1) if args.only in c]
    if args.list:
        print("\n".join(command for _, command in chosen))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    model = args.model
    if model is None:
        script = [sys.executable, str(ROOT / "tutorials" / "smollm2.py")]
        told = subprocess.run(script, capture_output=True, text=True, check=True)
        model = told.stdout.split()[-1]
    with (args.out / "machine.txt").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M')} {describe()}, load {os.getloadavg()}\n")
    failed = 0
    for name, command in chosen:
        if not (args.out / name).exists():
            failed += run(command, args.out / name, model) != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
