"""Build the site: run every tutorial into a page, then `mkdocs build --strict`.

    python tutorials/build             build/site; exits 1 if a cell, a link or a formula fails
    python tutorials/build --pages     only the tutorials' pages (then `mkdocs serve` to write)

Works in a checkout only. A page is made again when one of its inputs has changed (render.key).
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tutorials.build import methods, render

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "tutorials" / "site" / "tutorials"  # inside docs_dir, ignored by git
ASSETS = ROOT / "tutorials" / "site" / "assets"
MODEL = ASSETS / "shell-game"  # ignored, too; assets/lanes.js reads it
SHARED = ASSETS / "shared"  # the modules that the package's pages have as well
SITE = ROOT / "build" / "site"  # site_dir


def tutorials() -> list[Path]:
    """The scripts of the ladder, in order."""
    return sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))


def make(path: Path, fresh: bool = False) -> str:
    """Make a tutorial's page in a separate process, unless it is up to date.

    Returns the error message, or "". fresh: make it in any case. One process at a time makes a
    page; others wait and use it.
    """
    PAGES.mkdir(parents=True, exist_ok=True)
    with FileLock(PAGES / f".{path.stem}.lock"):
        done = render.stamp(path, PAGES)
        if not fresh and done.exists() and done.read_text() == render.key(path):
            return ""
        done.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tutorials.build.render", str(path), str(PAGES)]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_environment())
        return "" if run.returncode == 0 else (run.stderr or run.stdout).strip()


def copy_assets() -> None:
    """Put into docs_dir what stands elsewhere in the repository: the files of the page's model, the
    modules that the package's pages share with the site, and the methods' table."""
    weights = ("model.safetensors", "adapter/adapters.safetensors")
    for name in ("config.json", "tokenizer.json", *weights):
        _copy(ROOT / "weights" / "shell-game" / name, MODEL / name)
    modules = list((ROOT / "tinylane" / "view" / "shared").iterdir())
    for file in modules:
        _copy(file, SHARED / file.name)
    for old in {file.name for file in SHARED.glob("[!.]*")} - {file.name for file in modules}:
        (SHARED / old).unlink(missing_ok=True)
    methods.write()


def _copy(source: Path, target: Path) -> None:
    """Copy a file that has changed; whoever reads it meanwhile reads the old one or the new one."""
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")  # mkdocs leaves out the dot
    shutil.copyfile(source, part)
    os.replace(part, target)


def build() -> int:
    """Build the site from its pages, strictly. Returns mkdocs' exit status."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=ROOT, env=_environment()).returncode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tutorials/build", description="Build the site.")
    parser.add_argument("--pages", action="store_true", help="only the tutorials' pages")
    wanted = parser.parse_args(argv)
    if not (ROOT / "mkdocs.yml").exists():
        sys.exit(f"{ROOT} has no mkdocs.yml; run python tutorials/build in a checkout of tinylane")
    began = time.perf_counter()
    copy_assets()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failures = [said for said in pool.map(make, tutorials()) if said]
    print(f"{len(tutorials())} tutorials, {time.perf_counter() - began:.0f} s", flush=True)
    for said in failures:
        print(said, file=sys.stderr)
    if failures or wanted.pages:
        return int(bool(failures))
    status = build()
    print(f"{SITE.relative_to(ROOT)}: {time.perf_counter() - began:.0f} s in all")
    return status


def _environment() -> dict[str, str]:
    """One thread per process, no kernel compilation. This checkout's package and this environment's
    commands come first in the paths."""
    settings = {"OPENBLAS_NUM_THREADS": "1", "MLX_DISABLE_COMPILE": "1", "NO_MKDOCS_2_WARNING": "1"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    settings |= {**os.environ, "PYTHONPATH": path, "PATH": commands, "MPLBACKEND": "Agg"}
    return settings


if __name__ == "__main__":
    sys.exit(main())
