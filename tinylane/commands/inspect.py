"""`tinylane inspect`: what the loader chooses for a checkpoint, before it reads any tensor."""

from __future__ import annotations

from typing import Any

from tinylane.commands import common, shared_flags
from tinylane.files.display import printable
from tinylane.files.memory import size


def flags(p: Any) -> None:
    """Add the command's flags."""
    shared_flags.model_flags(p, positional=True)
    shared_flags.engine_flags(p, runs=False)
    p.add_argument("--lanes", type=int, default=1, metavar="N")
    p.add_argument("--prompt-tokens", type=int, default=512, metavar="N")
    p.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of each lane")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    from tinylane.checkpoints.load import inspect

    common.silence_panics()
    report = inspect(
        common.source(args),
        args.lanes,
        args.prompt_tokens,
        args.max_tokens,
        args.adapter_path,
        backend=args.backend,
        dtype=args.dtype,
        revision=args.revision,
        ops=args.ops,
    )
    if args.json:
        common.print_json(report)
    else:
        print("\n".join(printable(line) for line in format_report(report)))
    return 0


def format_report(report: dict[str, Any]) -> list[str]:
    """The report as plain lines: name, value, file."""
    lines = []
    for key, entry in report.items():
        if key == "forecast":
            continue
        text = _text(key, entry["value"])
        where = f"  [{entry['from']}]" if entry["from"] else ""
        lines.append(f"{key.replace('_', ' '):<14} {text}{where}")
    needs = report["forecast"]["value"]
    lines.append(
        f"{'forecast':<14} weights {size(needs['weights'])}, prompt of "
        f"{needs['prompt_tokens']:,} tokens {size(needs['prompt_kv'])} (once), "
        f"{needs['lanes']:,} lanes of {needs['max_tokens']:,} tokens {size(needs['lane_kv'])}: "
        f"{size(needs['total'])} in all"
    )
    have = needs["available"]
    verdict = "fits" if needs["fits"] else "DOES NOT FIT"
    whose = " (the GPU's share)" if needs["gpu"] == have else ""
    state = "unknown on this system" if have is None else f"{size(have)}{whose}: {verdict}"
    lines.append(f"{'available':<14} {state}")
    return lines


def _text(key: str, value: Any) -> str:
    if key == "tied":
        return "yes: the output head is the embedding" if value else "no: a separate output head"
    if value is None or value == [] or value is False:
        return "none"
    if value is True:
        return "yes"
    if key == "parameters":
        return f"{value:,}"
    if key == "tokenizer":
        return f"{value:,} tokens"
    if key == "identity":
        return value[:16]
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return _plain(value)


def _plain(item: Any) -> str:
    return f"{item:g}" if isinstance(item, float) else str(item).replace("\n", " ")
