"""Ctrl-C at random instants of every command, for `accidents.py`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from accidents_jobs import Argv, Faulty, files, temporary, whole
from accidents_places import Rows, commands, new_folder

if TYPE_CHECKING:
    from accidents import Place

BOOT = """
import os, sys
from tinylane.__main__ import main
try:
    os.write(int(sys.argv.pop(1)), b"x")
    sys.exit(main())
except KeyboardInterrupt as error:
    if error.__traceback__.tb_next is not None:
        raise
    sys.exit(0)  # here, not in the command: it had not begun
"""


def interrupt(place: Place, times: int, seed: int, only: list[str] | None) -> Rows:
    """Ctrl-C at random instants of real processes, sent to the whole group, as a terminal does."""
    rng, rows, wrong = random.Random(seed), [], []
    argv_of = commands(place)
    m, ready = place.materials, place.root / "ready"
    words = lambda *w: [str(x) for x in w]
    model = ("--model", m.game, "--backend", "numpy")
    argv_of["generate"] = lambda f: words("generate", *model, "--lanes", 4, "-m", 30)
    argv_of["inspect"] = lambda f: words("inspect", m.game)
    argv_of["replay"] = lambda f: words("replay", ready / "run.json")
    argv_of["verify"] = lambda f: words("verify", m.game, "--backend", "numpy")
    for name, argv in argv_of.items():
        if only and name not in only:
            continue
        tally = Counter[str]()
        length = None
        while tally["interrupted"] < times and tally["ended before"] < 4 * times + 4:
            folder = new_folder(place)
            if argv is argv_of.get("generate --save"):
                (folder / "run.json").write_bytes((ready / "run.json").read_bytes())
            delay = None if length is None else rng.random() * length
            try:
                code, said, took = _interrupted(argv(folder), delay)
                if length is None:
                    length = took
                if code == 0:
                    tally["ended before" if delay is not None else "whole"] += 1
                else:
                    _one_line(code, said)
                    tally["interrupted"] += 1
                for path in files(folder):
                    whole(path)
                if left := [p.name for p in files(folder) if temporary(p)]:
                    raise Faulty(f"left behind: {left}")
                if name == "generate --save" and not (folder / "run.json").exists():
                    raise Faulty("the old run is gone")
            except Faulty as error:
                wrong.append(f"{name}, after {delay} s of {length}: {error}")
                tally["failures"] += 1
                if tally["failures"] > 3:
                    break
            shutil.rmtree(folder)
        rows.append({"job": name, **tally})
        print(f"{name:18} {dict(tally)}", flush=True)
    return rows, wrong


def _interrupted(argv: Argv, delay: float | None) -> tuple[int, str, float]:
    """Exit code, standard error, seconds. delay None: not interrupted."""
    inner, outer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", BOOT, str(outer), *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(outer,),
        start_new_session=True,
        text=True,
    )
    os.close(outer)
    os.read(inner, 1)
    os.close(inner)
    began = time.monotonic()
    if delay is not None:
        time.sleep(delay)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    return process.returncode, said, time.monotonic() - began


def _one_line(code: int, said: str) -> None:
    lines = said.splitlines()
    ours = [x for x in lines if x.startswith("tinylane: ") and "interrupted" in x]
    if code != 130 or "Traceback" in said or "Exception" in said or len(ours) > 1:
        raise Faulty(f"exit code {code}: {said.strip()[-900:]}")
