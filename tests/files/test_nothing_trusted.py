"""Nothing is unpickled, evaluated or trusted, and no model text steers a terminal.

The first half reads the package's source; the second runs every command that shows text on a model
whose every word is an escape sequence, with data, a run directory and a folder full of them.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_checkpoint import small, weights, write_checkpoint
from helpers_cli import has_mlx, in_a_terminal
from helpers_view import word_tokenizer

import tinylane

ask, GAME = helpers_cli.ask, helpers_cli.GAME
ROOT = Path(tinylane.__file__).parents[1]
READ = ("tinylane", "tutorials/study", "tutorials/build", "tutorials/bench")

# What runs what it reads. The site's builder runs our own tutorials, which is what it is for.
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {"os.system", "os.popen", "np.load", "numpy.load", "np.fromfile", "mx.load", "torch.load"}
METHODS |= {"pandas.read_pickle", "builtins.eval", "builtins.exec", "runpy.run_path"}
WORDS = {"trust_remote_code", "allow_pickle", "shell"}
ALLOWED = {
    ("tutorials/build/render.py", "exec"),
    ("tutorials/build/render.py", "compile"),
    ("tinylane/lm_eval.py", "trust_remote_code"),  # an argument that lm-eval gives; it is ignored
}


def trusting(source: str) -> Iterator[str]:
    """What in a module's source would run what it is given."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for name in [module] if module else [alias.name for alias in node.names]:
                if str(name).split(".")[0] in MODULES:
                    yield str(name)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS | METHODS:
                yield called
            for keyword in node.keywords:
                given = keyword.value
                off = isinstance(given, ast.Constant) and given.value is False
                if keyword.arg in WORDS and not off:
                    yield str(keyword.arg)
        elif isinstance(node, ast.Constant) and node.value in WORDS - {"shell"}:
            yield str(node.value)  # in a dictionary of keyword arguments


def test_the_package_neither_unpickles_nor_evaluates_nor_trusts_remote_code() -> None:
    by_folder = {name: sorted((ROOT / name).rglob("*.py")) for name in READ}
    assert len(by_folder["tinylane"]) > 80 and all(len(some) > 3 for some in by_folder.values())
    trusted = {
        (file.relative_to(ROOT).as_posix(), what)
        for files in by_folder.values()
        for file in files
        for what in trusting(file.read_text(encoding="utf-8"))
    }
    assert trusted == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import a, joblib.numpy_pickle",
        "x = eval('1')",
        "np.load(path)",
        "model = from_pretrained(x, trust_remote_code=True)",
        "model = from_pretrained(x, trust_remote_code=anything)",
        "settings = {'trust_remote_code': True}",
        "subprocess.run(text, shell=True)",
        "def f():\n    return __import__(name)",
    ],
)
def test_the_reader_of_the_source_finds_it(source: str) -> None:
    """The control."""
    assert len(list(trusting(source))) == 1


def test_the_reader_of_the_source_leaves_the_rest_alone() -> None:
    fine = "import json\nmx.eval(x)\nmodel.eval()\nre.compile('a')\nrun(x, shell=False)\n"
    assert list(trusting(fine + "load(x, trust_remote_code=False)\nast.literal_eval('1')")) == []


# Escapes in what a model writes, reads and is called. Rich sends colours and moves of the cursor of
# its own; none of these.

TRAPS = [
    "\x1b]0;owned\x07",  # the title of the window
    "\x1b[6n",  # the terminal types an answer
    "\x1b[2J\x1b[H",
    "\x1bP+q544e\x1b\\",
    "\x9b31m",
    "\u202etxt.exe",
    "a\rb",
    "a\x08\x08b",
    "\u2028",
    "\x00\x7f",
]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
MODEL = "model\x1b]0;owned\x07"
QUESTION = f"how {TRAPS[0]} many {TRAPS[5]}?"


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name is a trap: a model that writes traps, and problems made of them."""
    home = tmp_path_factory.mktemp("traps") / "home\x1b[6n\u202e"
    raw = small(vocab_size=len(TRAPS) + 2, eos_token_id=1, tie_word_embeddings=True)
    folder = write_checkpoint(home / MODEL, raw, weights(raw))
    (folder / "tokenizer.json").write_text(word_tokenizer(TRAPS).core.to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    rows = [{"question": QUESTION, "answer": word} for word in TRAPS[:3]]
    write = {"prompt": TRAPS[0], "lanes": [TRAPS[1], TRAPS[2]], "label": True}
    (home / "transcripts.jsonl").write_text(json.dumps(write) + "\n")
    (home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def commands(home: Path) -> dict[str, list[object]]:
    """Every command that shows text; each reads what those before it have written."""
    model = ["--model", home / MODEL, "--backend", "numpy"]
    asked = [
        "jsonl",
        "--data",
        home / "data.jsonl",
        "--compare",
        "exact",
        *model,
        "--max-tokens",
        6,
    ]
    prompt = ["--prompt", TRAPS[1], "--max-tokens", 8, "--temp", 1, "--logit-bias", "1:-inf"]
    write = ["generate", *model, *prompt]
    data = home / "transcripts.jsonl"
    tune = ["train", "sft", "--model", home / MODEL, "--data", data, "--out", home / "tuned"]
    merge = ["--adapter-path", home / "tuned", "--save-path", home / "merged"]
    tuned: dict[str, list[object]] = {
        "train": [*tune, "--steps", 1, "--warmup", 0, "--lora-rank", 1, "--batch-size", 1],
        "fuse": ["fuse", "--model", home / MODEL, *merge],
    }
    return {
        **(tuned if has_mlx() else {}),
        "generate": write,
        "generate lanes": [*write, "--lanes", 3, "--save", home / "run.json"],
        "generate answers": [*write, "--lanes", 3, "--vote", "--best-of", "--answer-pattern", ".+"],
        "generate beams": [*write[:-4], "--beams", 2],
        "generate json": [*write, "--lanes", 2, "--json"],
        "generate lane prompts": [*write, "--lane-prompt", TRAPS[0], TRAPS[4]],
        "replay": ["replay", home / "run.json"],
        "view": ["view", home / "run.json", "--output", home / "a.html", "--svg", home / "a.svg"],
        "inspect": ["inspect", home / MODEL],
        "verify": ["verify", home / MODEL, "--samples", 1],
        "verify prompt": ["verify", home / MODEL, "--samples", 1, "--prompt", TRAPS[2], "--json"],
        "bench": [
            *[
                "bench",
                "--prompt-tokens",
                "8",
                "-m",
                "4",
                "--repeats",
                "1",
                "--threads",
                "1",
                "--read-mib",
                "8",
            ],
            *model,
        ],
        "eval": ["eval", *asked, "--lanes", 2, "--out", home / "eval"],
        "report": ["report", home / "eval", "--no-plots"],
        "collect": ["collect", *asked, "--lanes", 2, "--temp", 1, "--out", home / "collect"],
    }


def test_no_command_lets_text_steer_the_terminal(ask: Any, trap: Path) -> None:
    """Standard output and error both, names of files and folders too."""
    shown = 0
    for name, argv in commands(trap).items():
        code, out, err = ask(*argv)
        assert code == 0, (name, err)
        obeyed = OBEYED.search(out + err)
        assert not obeyed, (name, (out + err)[max(obeyed.start() - 60, 0) : obeyed.end() + 20])
        shown += "\\x1b" in out + err
    assert shown > 8  # the traps were there to be shown


def test_no_error_lets_text_steer_the_terminal(ask: Any, trap: Path, tmp_path: Path) -> None:
    """Files that are wrong in a place that the error quotes."""
    model = ["--model", trap / MODEL, "--backend", "numpy"]
    wrong = trap / "wrong.jsonl"
    wrong.write_text(json.dumps({TRAPS[0]: 1, "lanes": [TRAPS[1]], "label": TRAPS[2]}) + "\n")
    broken = tmp_path / "broken"
    shutil.copytree(trap / MODEL, broken)
    (broken / "config.json").write_text(json.dumps({"model_type": TRAPS[0]}))
    if not (trap / "eval").exists():  # the test above may run in another process
        assert ask(*commands(trap)["eval"])[0] == 0
    edited = tmp_path / "edited"
    shutil.copytree(trap / "eval", edited)
    line = json.loads((edited / "results.jsonl").read_text().splitlines()[0])
    (edited / "results.jsonl").write_text(json.dumps({**line, "mode": TRAPS[0]}) + "\n")
    for argv in (
        ["generate", "--model", broken, "--prompt", "x"],
        ["generate", *model, "--prompt", "x", "--adapter-path", trap / "none"],
        ["eval", "gsm8k", "--data", wrong, *model, "--out", tmp_path / "e"],
        ["report", edited],
        ["report", trap / MODEL],
        ["replay", trap / "data.jsonl"],
        ["view", trap / MODEL / "config.json"],
        ["generate", *model, "--visibility", TRAPS[0], "--prompt", "x"],
    ):
        code, out, err = ask(*argv)
        assert (code, out) == (2, "") and err.count("\n") == 1, (argv, err)
        assert not OBEYED.search(err.rstrip("\n")), (argv, err)


def test_a_live_view_sends_no_trap_to_a_real_terminal(trap: Path) -> None:
    argv = [str(word) for word in commands(trap)["generate lanes"]]
    sent = in_a_terminal(*argv)
    rest = re.sub(r"\x1b\[[0-9;?]*[A-Zhlm]|\r", "", sent)  # Rich's own: colours, moves, erasures
    assert "\x1b[6n" not in sent and not OBEYED.search(rest), rest
    assert "\\x1b]0;owned\\x07" in rest or "owned" in rest
