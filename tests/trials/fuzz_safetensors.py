"""Structured headers for the safetensors reader, as a Hypothesis property and as a fuzz target.

    python tests/trials/fuzz_safetensors.py -max_total_time=600    (pip install atheris)
    python tests/trials/fuzz_safetensors.py --random 600           seconds of random bytes

Both drive the same strategy through Hypothesis' `fuzz_one_input`: bytes choose a header. What our
reader accepts the safetensors library must accept, with the same names, shapes and bytes. What was
found becomes an entry of `CRAFTED` in `helpers_safetensors.py`, and so part of the corpus of
`hostile.py`.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))

if __name__ == "__main__" and "--random" not in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["tinylane"]):  # before anything else imports it
        import_module("tinylane.files.safetensors")

from helpers_safetensors import contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from tinylane.core.errors import TinylaneError
from tinylane.files.safetensors import DTYPES

SIZES = {name: dtype.itemsize for name, dtype in DTYPES.items()}
NAMES = st.text(st.characters(max_codepoint=0x2FFF), max_size=3) | st.sampled_from(
    ["a", "b", "__metadata__", "\ud800", "\x00", "é"]
)
WHOLE = st.integers(0, 9) | st.integers(-(2**65), 2**65) | st.sampled_from([2**31, 2**53, 2**63])
ANYTHING = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A header that is nearly right, and the bytes behind it."""
    pairs: list[tuple[str, Any]] = []
    end = 0
    for _ in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from([*SIZES, "F8_E4M3", "f32", ""]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = SIZES.get(dtype, 1)
        for n in shape:
            size *= n
        start = end + draw(st.sampled_from([0] * 12 + [1, -1, 8]))
        end = start + size + draw(st.sampled_from([0] * 12 + [1, -1, 2**64]))
        entry: dict[str, Any] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        if draw(st.integers(0, 5)) == 0:
            entry[draw(st.sampled_from(["dtype", "shape", "data_offsets", "x"]))] = draw(ANYTHING)
        if draw(st.integers(0, 20)) == 0:
            del entry[draw(st.sampled_from(sorted(entry)))]
        pairs.append((draw(NAMES), entry))
    if draw(st.booleans()):
        value = draw(st.dictionaries(NAMES, NAMES, max_size=2) | ANYTHING)
        pairs.insert(draw(st.integers(0, len(pairs))), ("__metadata__", value))
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    ascii = draw(st.booleans())
    inside = ",".join(f"{json.dumps(k, ensure_ascii=ascii)}:{json.dumps(v)}" for k, v in pairs)
    text = f"{{{inside}}}".encode("utf-8", "surrogatepass") + b" " * draw(st.integers(0, 3))
    length = max(0, min(end, 4096)) + draw(st.sampled_from([0] * 12 + [1, -1, 8]))
    return text, draw(st.sampled_from([b"\0", b"\1", b"\xff"])) * max(0, length)


@settings(
    max_examples=int(os.environ.get("TINYLANE_HEADERS", "150")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(headers())
def test_what_is_accepted_of_a_structured_header_safetensors_accepts_alike(
    made: tuple[bytes, bytes],
) -> None:
    one(struct.pack("<Q", len(made[0])) + made[0] + made[1])


_SCRATCH = Path(tempfile.gettempdir()) / f"tinylane-header-{os.getpid()}.safetensors"
TALLY = {"accepted": 0, "refused": 0}


def one(data: bytes) -> None:
    """Read a file of these bytes; raises AssertionError where the two readers disagree."""
    try:
        _SCRATCH.write_bytes(data)
        ours = contents(_SCRATCH)
    except TinylaneError as error:
        TALLY["refused"] += 1
        assert "\n" not in str(error)
        return
    finally:
        _SCRATCH.unlink(missing_ok=True)
    TALLY["accepted"] += 1
    assert ours == {n: (t["dtype"], t["shape"], bytes(t["data"])) for n, t in deserialize(data)}


def main() -> None:
    property_ = test_what_is_accepted_of_a_structured_header_safetensors_accepts_alike
    fuzz = property_.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    if sys.argv[1:2] == ["--random"]:
        end, count = time.monotonic() + float(sys.argv[2]), 0
        while time.monotonic() < end:
            fuzz(os.urandom(2048))
            count += 1
        print(f"{count:,} executions: {TALLY}")
        return

    told = 0

    def counted(data: bytes) -> None:  # libFuzzer ends the process itself: said on the way
        nonlocal told
        fuzz(data)
        if (count := sum(TALLY.values())) >= told + 10_000:
            told = count
            print(f"{count:,} headers: {TALLY}", flush=True)

    with tempfile.TemporaryDirectory() as corpus:
        for k in range(100):  # Hypothesis needs some hundred bytes for one header
            (Path(corpus) / str(k)).write_bytes(os.urandom(2048))
        atheris.Setup([*sys.argv, "-len_control=0", corpus], counted)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
