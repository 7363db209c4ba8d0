"""What several commands need: the model inside, notes, flags that they share, memory used."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.files.display import printable
from tinylane.files.io import check_bounds, read_bytes

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.evaluate.collaboration import Collaboration
    from tinylane.view.run_file import Run

# flag -> Sampler's name for it
SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}
LARGEST_MATRIX = 32 << 20  # bytes of a JSON file: 1024 x 1024 lanes with room


def embedded() -> Path:
    """The folder of the trained model that comes with the package (a wheel's, or a checkout's)."""
    package = Path(__file__).parent.parent
    places = [package / "_weights" / "shell-game", package.parent / "weights" / "shell-game"]
    for folder in places:
        if (folder / "config.json").is_file():
            return folder
    raise TinylaneError(
        "the model inside is missing (weights/shell-game); give --model, or make it: "
        "tinylane train shell-game --out weights/shell-game"
    )


def load(args: Any, **planned: Any) -> Model:
    """The model that the flags name, or the one inside. planned: what the forecast is told."""
    from tinylane.checkpoints.load import load as load_checkpoint

    silence_panics()
    return load_checkpoint(
        args.model if args.model is not None else embedded(),
        backend=args.backend,
        dtype=args.dtype,
        adapter=args.adapter_path,
        revision=args.revision,
        **planned,
    )


def load_saved(args: Any, run: Run) -> Model:
    """The model that the flags name, or the one that a saved run was written by."""
    if args.model is None:
        args.model = run.model_source or None
        args.revision = args.revision or _text(run.extra, "revision")
    args.adapter_path = args.adapter_path or _text(run.extra, "adapter_path")
    return load(args)


def _text(extra: dict[str, Any], name: str) -> str | None:
    value = extra.get(name)
    return value if isinstance(value, str) else None


def silence_panics() -> None:
    """Errors are one line here, those that come up inside of the tokenizers library too."""
    from tinylane.checkpoints import tokenizer

    tokenizer.SILENT_PANICS = True


def name_of(args: Any) -> str:
    """What to call the model."""
    return "the model inside" if args.model is None else printable(str(args.model))


def say(text: str, **where: Any) -> None:
    """Print text, of which names of files and what others wrote is shown and not obeyed."""
    print(printable(text), **where)


def note(text: str, quiet: bool = False) -> None:
    """A line about the run, on stderr: stdout is for what was asked for."""
    if not quiet:
        say(f"tinylane: note: {text}", file=sys.stderr, flush=True)


def parse_json(text: str, what: str) -> Any:
    """A JSON value from a flag or a file. Raises TinylaneError in one line."""
    check_bounds(text, what)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"{what}: {show(text, 60)} is not JSON ({error})") from None


def json_argument(text: str, what: str) -> Any:
    """The JSON in `text`, or in the file it names after an @."""
    if not text.startswith("@"):
        return parse_json(text, what)
    data = read_bytes(text[1:], LARGEST_MATRIX)
    try:
        return parse_json(data.decode("utf-8-sig"), f"{what} {text}")
    except UnicodeDecodeError as error:
        raise TinylaneError(f"{what} {text}: not UTF-8 text (byte {error.start})") from None


def numbers(value: Any, what: str) -> np.ndarray:
    """Nested lists of numbers (or booleans) as an array. Raises TinylaneError for anything else."""
    try:
        array = np.array(value)
    except ValueError:
        raise TinylaneError(f"{what}: rows of different lengths; expected a matrix") from None
    if array.dtype.kind not in "biuf":
        raise TinylaneError(f"{what}: {show(value, 60)}; expected lists of numbers")
    return array


def parse_mask(text: str, n: int | None, lag: int) -> LaneMask:
    """`--visibility` for n lanes; a matrix may give n."""
    if not text.startswith(("@", "[")):
        return LaneMask.named(text, n or 1, lag)
    mask = LaneMask(numbers(json_argument(text, "--visibility"), "--visibility"), lag)
    if n is not None and mask.n < n:
        raise TinylaneError(
            f"--visibility is {mask.n} x {mask.n}; expected {n} x {n}, for {n} lanes"
        )
    return mask


def template(args: Any) -> dict[str, Any] | None:
    """What the flags say about the prompt, as keyword arguments of `Tokenizer.prompt_ids`; or None.

    Raises TinylaneError for a --chat-template-config that is no JSON object.
    """
    found: dict[str, Any] = {"raw": True} if args.raw else {}
    if args.system_prompt is not None:
        found["system"] = args.system_prompt
    if args.prefill_response is not None:
        found["prefill"] = args.prefill_response
    if args.chat_template_config is not None:
        value = parse_json(args.chat_template_config, "--chat-template-config")
        if not isinstance(value, dict):
            raise TinylaneError(
                f"--chat-template-config is {show(value, 40)}; expected a JSON object"
            )
        found["template_args"] = value
    return found or None


def sampling(args: Any) -> dict[str, Any]:
    """What the flags say about sampling, as fields of `Sampler`; raises what that raises."""
    given = {
        name: getattr(args, flag)
        for flag, name in SAMPLING.items()
        if getattr(args, flag) is not None
    }
    if args.logit_bias:
        given["logit_bias"] = _bias(args.logit_bias)
    Sampler(**given)
    return given


def _bias(words: list[str]) -> dict[int, float]:
    pairs: list[tuple[Any, Any]] = []
    for word in words:
        if word.lstrip().startswith("{"):
            value = parse_json(word, "--logit-bias")
            pairs += value.items()
        else:
            token, _, bias = word.rpartition(":")
            pairs.append((token, bias))
    try:
        return {int(token): float(bias) for token, bias in pairs}
    except (ValueError, TypeError):
        raise TinylaneError(
            f"--logit-bias {show(' '.join(words), 60)}; expected ID:BIAS, like 42:-5"
        ) from None


def parse_collaboration(args: Any) -> Collaboration | None:
    """The collaboration prompts that the flags ask for. Raises TinylaneError for what is wrong."""
    if args.collaborate is None:
        for flag in ("without", "nudge_every", "finish_at"):
            if getattr(args, flag) is not None:
                raise TinylaneError(f"--{flag.replace('_', '-')} needs --collaborate")
        return None
    from tinylane.evaluate.collaboration import NUDGE_EVERY, read

    for flag in ("nudge_every", "finish_at"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise TinylaneError(f"--{flag.replace('_', '-')} is {value}; expected 1 or more")
    every = args.nudge_every if args.nudge_every is not None else NUDGE_EVERY
    return read(args.collaborate or None, args.without or (), every, args.finish_at)


def print_json(value: Any) -> None:
    """One JSON document. ASCII, so that no terminal obeys model text."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """`value` with what JSON has no number for as text: "-inf"."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def peak_memory(backend: str) -> int | None:
    """Bytes of memory that this process held at most, None where the system does not say.

    With MLX the larger of that and what MLX allocated: on a GPU the process does not show it.
    """
    from tinylane.files.memory import memory

    peak = memory()
    if backend == "mlx" and peak is not None:
        import mlx.core as mx

        peak = max(peak, mx.get_peak_memory())
    return peak


def mebibytes(count: int | None) -> str:
    """1536 * 2**20 -> "1.5 GiB"."""
    if count is None:
        return "unknown"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
