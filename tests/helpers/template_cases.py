"""Conversations, and what else `apply_chat_template` takes, for comparing with transformers.

`tests/record/record_text.py` keeps what transformers renders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from helpers_templates import TEMPLATES
from helpers_text import BOS, EOS

NAMES = {"bos_token": BOS, "eos_token": EOS}
TOOL = {
    "type": "function",
    "function": {
        "name": "swap",
        "description": "Swap two cups <now> & then.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
USER = {"role": "user", "content": "  Where is <everything> & why? "}
SAID = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nUnder 杯子 🎾 "}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "three": [USER, SAID, USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "none": [{**USER, "tool_calls": None, "name": None}],
    "reasoning": [USER, {"role": "assistant", "content": "Left.", "reasoning": "hm"}, USER],
    "said": [USER, {"role": "assistant", "content": "Under the "}],
    "thought": [USER, {"role": "assistant", "content": "", "thinking": "Let me see"}],
}
# What else is given; each with the conversations that it is for.
GIVEN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "": ({}, ("one", "three", "system", "none", "reasoning", "said")),
    "tools": ({"tools": [TOOL]}, ("one", "system")),
    "documents": ({"documents": [{"title": "a", "text": "b"}]}, ("one",)),
    "no opening": ({"add_generation_prompt": False}, ("one", "three")),
    "goes on": ({"continue_final_message": True}, ("said", "three", "one", "system")),
    "thinks on": ({"continue_final_message": "reasoning_content"}, ("thought", "said")),
    "no thinking": ({"enable_thinking": False}, ("one", "said")),
    "by name": ({"chat_template": "rag"}, ("one",)),
    "as text": ({"chat_template": "{{ messages | length }}{{ bos_token }}"}, ("three",)),
    "date": ({"date_string": "26 Jul 2024"}, ("one",)),
}
ASKS = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}A:"
MORE: dict[str, str | dict[str, str]] = {
    "tools is not none": "{% if tools is not none %}TOOLS {{ tools | tojson }}{% endif %}" + ASKS,
    "documents is none": "{% if documents is none %}no docs {% else %}{{ documents }}{% endif %}"
    + ASKS,
    "tools defined": "{{ tools is defined }}{{ tools is none }}{{ documents is defined }}"
    "{{ add_generation_prompt }}" + ASKS,
    "no generation prompt": "{% for m in messages %}{{m.role}}: {{m.content}}\n{% endfor %}",
    "strips": "{% for m in messages %}{{m.role}}: {{m.content | trim}}\n{% endfor %}",
    "drops the last": "{% for m in messages[:-1] %}{{m.role}}: {{m.content}}\n{% endfor %}",
    "thinks": "{% for m in messages %}{{m.role}}: {{m.reasoning_content}}|{{m.thinking}}|"
    "{{m.content}}\n{% endfor %}",
    "named": {"default": "D " + ASKS, "tool_use": "T {{ tools | tojson }}" + ASKS, "rag": ASKS},
    "named, no default": {"rag": "R " + ASKS, "tool_use": "T " + ASKS},
}


def cases(templates: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, template or templates by name, messages, and further arguments."""
    for name, template in ({**TEMPLATES, **MORE} if templates is None else templates).items():
        for what, (given, conversations) in GIVEN.items():
            if what == "by name" and not isinstance(template, dict):
                continue  # transformers takes the name itself for a template
            if (name, what) == ("odds", "thinks on"):
                continue  # transformers looks for the field's name in the template's source
            for conversation in conversations:
                messages = json.loads(json.dumps(CONVERSATIONS[conversation]))
                yield f"{name}; {conversation}; {what}", template, messages, given


def lasts(name: str) -> bool:
    """Whether a case's text is the same tomorrow: Llama 3's template writes the date."""
    return not name.startswith("llama3;") or name.endswith("; date")


def theirs(
    template: Any, messages: Any, given: Mapping[str, Any], names: Any = NAMES
) -> str | None:
    """What transformers renders; None where it raises."""
    from helpers_text import byte_level
    from tokenizers import Tokenizer as Core
    from transformers import PreTrainedTokenizerFast

    tok = PreTrainedTokenizerFast(tokenizer_object=Core.from_str(byte_level()), **names)
    tok.chat_template = template
    opening = {} if "continue_final_message" in given else {"add_generation_prompt": True}
    try:
        text = tok.apply_chat_template(messages, tokenize=False, **{**opening, **given})
    except Exception:
        return None
    # It marks the end of the last message and leaves its mark where a template writes that twice.
    return text.replace("CONTINUE_FINAL_MESSAGE_TAG ", "")


def ours(template: Any, messages: Any, given: Mapping[str, Any], names: Any = NAMES) -> str | None:
    import warnings

    from tinylane.checkpoints.chat_template import prompt_text
    from tinylane.core.errors import TinylaneError

    by_name = template if isinstance(template, dict) else {"default": template}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arguments that a template does not read
            return prompt_text(by_name, names, messages, None, given)
    except TinylaneError:
        return None
