"""The tests are tested: small changes to the core, one at a time, each of which a test must notice.

    python tests/trials/mutate.py                          all ten files; eight took 12 minutes
    python tests/trials/mutate.py --only rope --jobs 1     one of them
    python tests/trials/mutate.py --work DIR               keep the copies; a stopped run goes on

mutmut (`pip install mutmut==3.8.1`) makes the changes: an operator, a number, a string, an argument
or an assignment at a time. It works in a copy of the checkout, and runs those of a file's tests
that reach the changed function, the quickest first, until one fails. Not changed: properties and
other decorated functions, calls of `len` and `isinstance`, annotations, and what stands outside of
functions (constants, the regular expressions of `answers.py`, the fields of dataclasses).

A change that no test notices must be listed in `data/mutation_survivors.json` with the reason, and
what is listed must survive. A change that keeps the tests from ending counts as noticed, in a
column of its own; the limit is on processor time, so a busy machine changes nothing.
Exit code 1: a file's score (noticed / all, nothing left out) is below 94%, or the list is wrong.

With --work, a change that was noticed in a former run is not tried again unless its function
changed; survivors are. To begin anew, remove DIR.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LISTED = ROOT / "tests" / "data" / "mutation_survivors.json"
MUTMUT = "3.8.1"  # another version makes other changes
WANTED = 94.0  # per cent
COPIED = ("tinylane", "tests", "weights", "pyproject.toml", "README.md")
STILL = 600  # seconds after which a run that does nothing is given up; it does not count

# The tests that are about a file, and (-) those that are left out: some spend seconds on one import
# (what they compare with is recorded in tests/data too), some plant bugs in an unchanged source.
PLANTED = "-core/test_numpy_ops.py::test_a_planted_bug_is_caught"
TESTS = {
    "core/rope": [
        "core/test_rope.py",
        "-core/test_rope.py::test_frequencies_are_those_of_the_installed_transformers",
    ],
    "core/lanes": ["core/test_lanes.py", "core/test_decoder.py"],
    "core/sampling": [
        "core/test_uniform.py",
        "core/test_sampling.py",
        "core/test_sampling_draws.py",
        "-core/test_sampling.py::test_the_record_is_what_the_installed_transformers_says",
        "-core/test_sampling.py::test_filters_equal_transformers_live",
    ],
    "core/distribution": [
        "core/test_distribution.py",
        "core/test_sampling_draws.py",
    ],
    "methods/prefix": [
        "methods/test_prefix.py",
        "-methods/test_prefix.py::test_the_comparison_catches_a_planted_bug",
    ],
    "core/cache": [
        "core/test_cache.py",
        "core/test_cache_buffers.py",
        "core/test_cache_machine.py",
        "files/test_cache_file.py",
    ],
    "core/decoder": [
        "core/test_decoder.py",
        "core/test_model.py",
        "core/test_mlx_ops.py",
        "core/test_numpy_ops.py",
        PLANTED,
    ],
    "core/model": ["core/test_model.py", "core/test_decoder.py"],
    "core/numpy_ops": ["core/test_numpy_ops.py", "core/test_decoder.py", PLANTED],
    "evaluate/answers": ["evaluate/test_answers.py", "evaluate/test_vote.py"],
}

NOTICED, TIMEOUT, SURVIVED = "noticed", "timed out", "survived"
UNREACHED, ODD, LEFT = "no test", "suspicious", "not run"
COLUMNS = (NOTICED, TIMEOUT, SURVIVED, UNREACHED, ODD, LEFT)
OUTCOME = {None: LEFT, 0: SURVIVED, 1: NOTICED, 3: NOTICED, 5: UNREACHED, 33: UNREACHED}
OUTCOME |= {-9: TIMEOUT}  # the plugin's limit; 255 is mutmut's: pytest could not run these tests

# A plugin of pytest's for the copy: the quickest tests first, as mutmut timed them; properties that
# try the same examples every time and do not shrink; bounds on memory and on the processor's time.
PLUGIN = """
import json
import os
import resource
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "mutation", max_examples=25, derandomize=True, database=None, deadline=None,
    phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck),
)
if sys.platform == "linux":
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))


def times():
    file = Path("mutmut-stats.json")
    return json.loads(file.read_text())["duration_by_test"] if file.exists() else {}


def pytest_configure():
    if "__mutmut_" in os.environ.get("MUTANT_UNDER_TEST", ""):
        limit = int(time.process_time() + min(45.0, 10.0 + 3 * sum(times().values())))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))


def pytest_collection_modifyitems(items):
    known = times()
    items.sort(key=lambda item: known.get(item.nodeid, 0.0))
"""


class Change(NamedTuple):
    """A change, described by its text, so that it stays valid when lines move."""

    where: str  # file.function or file.Class.method; the file without its folder
    was: str
    becomes: str


def main() -> int:
    options = arguments()
    if (installed := importlib.metadata.version("mutmut")) != MUTMUT:
        sys.exit(f"mutmut {installed} makes other changes; expected {MUTMUT}")
    modules = [m for m in TESTS if not options.only or short(m) in options.only]
    reasons = read_list(modules)
    totals: dict[str, Counter[str]] = {}
    alive: Counter[Change] = Counter()
    began = time.perf_counter()
    with folder(options.work) as work:
        for module in modules:
            outcomes = run(module, work / short(module), options.jobs)
            totals[module] = Counter(outcomes.values())
            names = [name for name, o in outcomes.items() if o not in (NOTICED, TIMEOUT)]
            alive.update(changes(names, module, work / short(module)))
            print(f"{module}: {time.perf_counter() - began:.0f} s", flush=True)
    print(table(totals, alive, reasons))
    listed = Counter({which: count for which, (count, _, _) in reasons.items()})
    good = differences("survived and is not listed", alive - listed)
    good &= differences("is listed and does not survive", listed - alive)
    low = [module for module, counts in totals.items() if score(counts) < WANTED]
    for module in low:
        print(f"{module}: {score(totals[module]):.1f}%; expected {WANTED:.0f}%")
    return 0 if good and not low else 1


def short(module: str) -> str:
    """The name of a file: core/rope -> rope."""
    return module.rpartition("/")[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=[*map(short, TESTS)], metavar="FILE", help=str([*TESTS])
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="changes tried at a time")
    parser.add_argument("--work", type=Path, help="a folder for the copies, kept")
    return parser.parse_args()


@contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    if given is None:
        with tempfile.TemporaryDirectory(prefix="tinylane-mutation-") as name:
            yield Path(name)
    else:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()


# Running mutmut in a copy.


def run(module: str, copy: Path, jobs: int) -> dict[str, str]:
    """The outcome of every change to a file of the package, by mutmut's name of it."""
    update(copy)
    meta = copy / "mutants" / "tinylane" / f"{module}.py.meta"
    (copy / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)  # tests may have changed
    reset(meta, lambda outcome: outcome != NOTICED)
    mutmut(module, copy, jobs)
    if reset(meta, lambda outcome: outcome in (ODD, LEFT)):
        mutmut(module, copy, jobs)
    codes = json.loads(meta.read_text())["exit_code_by_key"]
    return {name: OUTCOME.get(code, ODD) for name, code in codes.items()}


def update(copy: Path) -> None:
    """Update a copy; an unchanged file keeps its time, which mutmut compares."""
    for folder in (copy / "tests", copy / "mutants" / "tests"):
        shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        source, target = ROOT / name, copy / name
        for file in [source] if source.is_file() else sorted(source.rglob("*")):
            to = target / file.relative_to(source)
            if file.is_dir() or "__pycache__" in file.parts:
                continue
            if not to.exists() or to.read_bytes() != file.read_bytes():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, to)
    (copy / "mutation_plugin.py").write_text(PLUGIN)


def reset(meta: Path, which: Callable[[str], bool]) -> int:
    """Have mutmut try these changes again; how many they are."""
    if not meta.exists():
        return 0
    said = json.loads(meta.read_text())
    codes = said["exit_code_by_key"]
    again = [name for name, code in codes.items() if which(OUTCOME.get(code, ODD))]
    codes.update(dict.fromkeys(again))
    meta.write_text(json.dumps(said))
    return len(again)


def mutmut(module: str, copy: Path, jobs: int) -> None:
    """`mutmut run`, whose settings are in the copy's pyproject.toml."""
    tests = [f"tests/{name}" for name in TESTS[module] if not name.startswith("-")]
    left_out = [f"--deselect=tests/{name[1:]}" for name in TESTS[module] if name.startswith("-")]
    settings = {
        "source_paths": ["tinylane"],
        "only_mutate": [f"tinylane/{module}.py"],
        "also_copy": ["weights", "README.md", "mutation_plugin.py"],
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": [
            "-p", "mutation_plugin", "--hypothesis-profile=mutation", "-p", "no:cacheprovider",
            *left_out,
        ],
        "process_isolation": "forkserver",  # MLX has threads, which a fork does not take along
        "timeout_multiplier": 1.0,
        "timeout_constant": float(STILL),
        "use_git_change_detection": False,
    }  # fmt: skip
    ours = (ROOT / "pyproject.toml").read_text()
    ours = re.sub(r"(?m)^addopts = .*$", 'addopts = "-q"', ours)  # one process
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    (copy / "pyproject.toml").write_text("\n".join([ours, "[tool.mutmut]", *lines, ""]))
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CI")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = f"from mutmut.__main__ import cli; cli(['run', '--max-children', '{jobs}'])"
    with (copy / "mutmut.log").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-c", command], cwd=copy, env=environment, stdout=log, stderr=log
        )
    if done.returncode:
        text = (copy / "mutmut.log").read_text()
        sys.exit(f"{module}: mutmut ended with {done.returncode}\n{text[-3000:]}")


def changes(names: list[str], module: str, copy: Path) -> list[Change]:
    """What mutmut calls by these names: the lines that each takes and gives."""
    script = (
        "import json, sys; from mutmut.mutation.diff_apply import get_diff_for_mutant as diff;"
        "print(json.dumps([diff(name, path=sys.argv[1]) for name in json.load(sys.stdin)]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, f"tinylane/{module}.py"],
        cwd=copy, input=json.dumps(names), capture_output=True, text=True, check=True,
    )  # fmt: skip
    changed = []
    for name, diff in zip(names, json.loads(said.stdout), strict=True):
        lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
        was, becomes = (
            " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
        )
        function = name.removeprefix(f"tinylane.{module.replace('/', '.')}.x").partition(
            "__mutmut_"
        )[0]
        function = function[1:].replace("ǁ", ".")  # x_function, xǁClassǁmethod
        changed.append(Change(f"{short(module)}.{function}", was, becomes))
    return changed


# The list, and the result.


def read_list(modules: list[str]) -> dict[Change, tuple[int, str, bool]]:
    """The listed survivors of these files: how often, why, and whether the change has no effect."""
    listed: dict[Change, tuple[int, str, bool]] = {}
    for entry in json.loads(LISTED.read_text()):
        if entry["in"].partition(".")[0] in map(short, modules):
            for was, becomes in entry["changes"]:
                which = Change(entry["in"], was, becomes)
                count = listed[which][0] if which in listed else 0
                listed[which] = count + 1, entry["why"], entry["equivalent"]
    return listed


def score(counts: Counter[str], left_out: int = 0) -> float:
    return 100.0 * (counts[NOTICED] + counts[TIMEOUT]) / (counts.total() - left_out)


def table(
    totals: dict[str, Counter[str]],
    alive: Counter[Change],
    reasons: dict[Change, tuple[int, str, bool]],
) -> str:
    """A line for every file: its changes by outcome, and the two scores."""
    lines = [
        "".join([f"{'file':13}{'changes':>9}", *(f"{c:>12}" for c in COLUMNS), "   score   *"])
    ]
    same: Counter[str] = Counter()
    for which, count in alive.items():
        if which in reasons and reasons[which][2]:
            same[which.where.partition(".")[0]] += count
    rows = [(short(m), counts, same[short(m)]) for m, counts in totals.items()]
    if len(rows) > 1:
        rows.append(("all", sum(totals.values(), Counter()), same.total()))
    for name, counts, equal in rows:
        cells = [f"{name:13}{counts.total():9}", *(f"{counts[c]:12}" for c in COLUMNS)]
        cells += [f"{score(counts):7.1f}%", f"{score(counts, equal):7.1f}%"]
        lines.append("".join(cells))
    return "\n".join([*lines, "* without the changes that the list says change nothing"])


def differences(what: str, changes: Counter[Change]) -> bool:
    """Print them; returns whether there are none."""
    for which in sorted(changes.elements()):
        print(f"{what}: {which.where}\n  - {which.was}\n  + {which.becomes}")
    return not changes


if __name__ == "__main__":
    sys.exit(main())
