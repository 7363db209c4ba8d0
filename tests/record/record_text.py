"""Record what transformers makes of text files and chat templates: tests/data/text.json.

    python tests/record/record_text.py

The folders of `tests/helpers/tokenizer_cases.py` and the conversations of `template_cases.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE / "helpers"), str(HERE.parent)]

import template_cases  # noqa: E402
import tokenizer_cases  # noqa: E402


def main() -> None:
    import transformers

    with TemporaryDirectory() as folder:
        folders = {
            name: tokenizer_cases.seen_in_theirs(tokenizer_cases.write(Path(folder, str(k)), name))
            for k, name in enumerate(tokenizer_cases.FOLDERS)
        }
    texts = {
        name: template_cases.theirs(template, messages, given)
        for name, template, messages, given in template_cases.cases()
        if template_cases.lasts(name)
    }
    record = {"transformers": transformers.__version__, "folders": folders, "templates": texts}
    path = HERE / "data" / "text.json"
    path.write_text(json.dumps(record, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path}: {len(folders)} folders, {len(texts)} prompts")


if __name__ == "__main__":
    main()
