"""How much of the package is entered before the first pass of the decoder: files and functions.

A reader who follows a run from its beginning meets this much before the mathematics. Counted are
distinct files and distinct functions (classes' bodies too, modules' bodies not).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import json, os, sys
import tinylane, tinylane.__main__ as entry

package = os.path.dirname(os.path.abspath(tinylane.__file__)) + os.sep
decoder = os.path.join(package, "core", "decoder.py")

class Reached(BaseException):
    pass

def entered(act):
    met = {}
    def on_call(frame, event, arg):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(package):
            return
        if code.co_name == "forward" and code.co_filename == decoder:
            sys.setprofile(None)
            raise Reached
        if code.co_name != "<module>":
            met[code] = code.co_filename.removeprefix(package)
    sys.setprofile(on_call)
    try:
        return act(), met
    except Reached:
        return None, met
    finally:
        sys.setprofile(None)

def told(met):
    by_file = {}
    for code, file in met.items():
        by_file.setdefault(file, []).append(code.co_name)
    return by_file

backend = sys.argv[1]
if sys.argv[2] == "command":
    sys.argv[1:] = ["generate", "--lanes", "4", "--seed", "7", "--backend", backend]
    print(json.dumps(told(entered(entry.main)[1])), file=sys.stderr)
else:
    weights = os.path.join(package, "..", "weights", "shell-game")
    model, load = entered(lambda: tinylane.load(weights, backend=backend))
    prompt = "cups ABCD, swap 3-4 2-3: where?"
    _, generate = entered(lambda: tinylane.generate(model, prompt, lanes=4))
    print(json.dumps([told(load), told(generate)]), file=sys.stderr)
"""

PACKAGE = Path(__file__).parents[2] / "tinylane"
# For what a plain run of the model inside does not ask: methods, flags of lanes, packed layers,
# parameters for lanes, adapters of others, chat templates, downloads, reports.
UNASKED = {
    *("commands/generate_method.py", "commands/generate_beams.py", "commands/lane_flags.py"),
    *("methods/__init__.py", "evaluate/collaboration.py", "commands/inspect.py"),
    *("checkpoints/quantized.py", "checkpoints/peft_adapter.py", "checkpoints/chat_template.py"),
    *("checkpoints/extras.py", "checkpoints/hub.py", "files/writing.py"),
}

BACKENDS = ["numpy"] + ["mlx"] * (importlib.util.find_spec("mlx") is not None)


def count(backend: str, what: str) -> object:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, backend, what], capture_output=True, text=True
    )
    return json.loads(done.stderr.splitlines()[-1])


def size(entered: dict[str, list[str]]) -> tuple[int, int]:
    """Files and functions."""
    return len(entered), sum(map(len, entered.values()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_few_functions_are_entered_by_generate_before_the_first_pass(backend: str) -> None:
    entered = count(backend, "command")
    assert isinstance(entered, dict) and "commands/generate.py" in entered
    assert all((PACKAGE / name).is_file() for name in UNASKED) and not UNASKED & set(entered)
    files, functions = size(entered)
    assert files <= 30 and functions <= 244, entered


@pytest.mark.parametrize("backend", BACKENDS)
def test_few_files_are_entered_from_python(backend: str) -> None:
    entered = count(backend, "python")
    assert isinstance(entered, list)
    load, generate = (size(one) for one in entered)
    assert load[0] <= 18 and generate[0] <= 16, entered
