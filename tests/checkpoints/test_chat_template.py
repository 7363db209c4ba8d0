"""Claims about chat templates: they render as in transformers, and a hostile one is one line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers_templates import LLAMA3, MISTRAL, QWEN3, QWEN25, SMOLLM2, TEMPLATES
from helpers_text import BOS, byte_level
from tokenizers import Tokenizer as Core

from tinylane.checkpoints import chat_template
from tinylane.checkpoints.chat_template import render
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.errors import TinylaneError
from tinylane.files import worker

USER = [{"role": "user", "content": "Where is <everything> & why?"}]
TURNS = [
    {"role": "user", "content": "  Swap 1-3. "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nDone. 🎾"},
    *USER,
]
SYSTEM = [{"role": "system", "content": "Be brief."}, *USER]

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def refused(template: str, **variables: object) -> str:
    """The one line that refuses it."""
    with pytest.raises(TinylaneError) as error:
        render(template, USER, **variables)
    assert "\n" not in str(error.value)
    assert "template" in str(error.value)
    return str(error.value)


@pytest.fixture
def started(monkeypatch):
    """Every process started from here on."""
    processes: list[subprocess.Popen] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return processes


# ------------------------------------------------------------------------------------- rendering


def test_families_render_to_their_known_prompts():
    """Written out from what the checkpoints' cards show."""
    assert render(QWEN25, USER, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\nWhere is <everything> & why?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(QWEN3, SYSTEM, add_generation_prompt=True, enable_thinking=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is <everything> & why?"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert render(MISTRAL, TURNS[:2], **NAMES) == (
        "<s>[INST]   Swap 1-3.  [/INST]<think>\nhm\n</think>\n\nDone. 🎾</s>"
    )
    assert render(LLAMA3, TURNS[:1], **NAMES, date_string="26 Jul 2024") == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "Swap 1-3.<|eot_id|>"
    )


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_prompts_are_those_of_transformers(name):
    """Text and ids of apply_chat_template, with and without system prompt and arguments."""
    transformers = pytest.importorskip("transformers")
    template = TEMPLATES[name]
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Core.from_str(byte_level()), chat_template=template, **NAMES
    )
    ours = Tokenizer(Core.from_str(byte_level()), NAMES, chat_template=template)
    for messages in (USER, TURNS, SYSTEM):
        if name == "mistral" and messages is SYSTEM:
            continue
        for args in ({}, {"enable_thinking": False}) if name == "qwen3" else ({},):
            expected = theirs.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **args
            )
            assert (
                render(template, messages, add_generation_prompt=True, **NAMES, **args) == expected
            )
            ids = theirs.apply_chat_template(
                messages, tokenize=True, return_dict=False, add_generation_prompt=True, **args
            )
            assert ours.prompt_ids(messages, template_args=args) == ids
            assert ours.decode(ids, skip_special=False) == expected
            assert ids.count(ours.core.token_to_id(BOS)) == expected.count(BOS)


def test_a_template_that_raises_says_what_it_raised():
    with pytest.raises(TinylaneError) as error:
        render(MISTRAL, SYSTEM, **NAMES)
    assert "Conversation roles must alternate" in str(error.value)
    said = refused("{{ raise_exception('one\n two\x1b[31m') }}")
    assert "one two\\x1b[31m" in said


def test_many_prompts_are_rendered_by_one_process(started):
    """Starting Python costs more than rendering, so it happens once. No time: it is counted."""
    chat_template._worker.close()
    for k in range(500):
        messages = [{"role": "user", "content": f"What is {k}?"}]
        assert f"What is {k}?" in render(QWEN25, messages, add_generation_prompt=True)
    assert len(started) == 1


def test_rendering_works_in_any_thread_and_leaves_no_process(monkeypatch, started):
    chat_template._worker.close()
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(render("{{ messages[0].role }}", USER)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["user"] * 3
    refused("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    monkeypatch.setattr(chat_template, "WALL_SECONDS", 0.02)
    refused("{{ 1 }}")
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_rendering_takes_nothing_from_the_folder_or_the_environment(tmp_path, monkeypatch):
    """A jinja2.py beside the checkpoint must not be what runs."""
    for name in ("jinja2.py", "json.py", "select.py"):
        (tmp_path / name).write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert render("{{ 1 + 1 }}", USER) == "2"


def test_a_long_conversation_renders():
    """A prompt of a megabyte is honest; limits are for templates."""
    messages = [{"role": "user", "content": "日本 🎾 word " * 1000}] * 100
    text = render(SMOLLM2, messages, add_generation_prompt=True)
    assert text.count("word") == 100_000


# ------------------------------------------------------------------------------- hostile templates

HOSTILE = {
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "forbids",
    "{{ messages.append.__globals__ }}": "forbids",
    "{{ cycler.__init__.__globals__.os.system('id') }}": "forbids",
    "{{ self.__init__.__globals__ }}": "forbids",
    "{% set n = namespace(__class__=1) %}": "forbids",
    "{{ messages.append(1) }}": "forbids",
    "{{ messages[0].update(a=1) }}": "forbids",
    "{{ '{0.__class__.__mro__}'.format(1) }}": "forbids",
    "{{ ''|attr('format')('{0.__class__}', 1).x.y }}": "",
    "{{ dict.__call__.__globals__ }}": "forbids",
    "{{ 'a' * 200000000 }}": "too long",
    "{{ [0] * 200000000 }}": "too long",
    "{{ 9 ** 9999999 }}": "too large",
    "{{ 'x'.ljust(2000000000) }}": "memory",
    "{{ '%1000000000d' % 1 }}": "memory",
    "{{ ('a' * 9999999).replace('a', 'a' * 9999999) }}": "memory",
    "{% set s = namespace(v='aaaaaaaa') %}{% for i in range(60) %}{% set s.v = s.v ~ s.v %}"
    "{% endfor %}": "memory",
    "{% set s = namespace(v=[1]) %}{% for i in range(60) %}{% set s.v = s.v + s.v %}"
    "{% endfor %}": "memory",
    "{% for i in range(10**9) %}{% endfor %}": "Range too big",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "processor",
    "{% for i in range(99999) %}{% for j in range(99) %}aaaaaaaaaaa{% endfor %}{% endfor %}": (
        "too long a prompt"
    ),
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "without end",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "template",
    "{% if %}": "not valid Jinja: line 1",
    "{% for m in messages %}": "not valid Jinja",
    "{{ 1 | nosuchfilter }}": "nosuchfilter",
    "{{ nothing.at.all }}": "undefined",
    "{{ 1 / 0 }}": "division by zero",
    "{% include '/etc/passwd' %}": "loader",
    "{{ messages[0].content + 1 }}": "TypeError",
}


@pytest.mark.parametrize("template", list(HOSTILE), ids=lambda text: text[:40])
def test_a_hostile_or_broken_template_is_refused_in_one_line_and_in_time(template, monkeypatch):
    # The limit is on processor time, so that a busy machine refuses nothing it should render; the
    # other limit, on the wall's clock, would come first on a machine that has five things to do.
    monkeypatch.setattr(chat_template, "WALL_SECONDS", 120.0)
    chat_template._worker.close()  # what it used for other templates is not counted
    before = children_seconds()
    said = refused(template)
    chat_template._worker.close()
    assert children_seconds() - before < chat_template.CPU_SECONDS + 1.5
    assert HOSTILE[template] in said


def children_seconds() -> float:
    """Processor time of the finished child processes, which a busy machine does not stretch."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_hostile_templates_stay_within_200_mib():
    """Peak of the rendering process and of this one, in a process that does nothing else."""
    bombs = [template for template, word in HOSTILE.items() if word in ("memory", "too long")]
    code = (
        "import json, resource, sys\n"
        "from tinylane.checkpoints.chat_template import render\n"
        "from tinylane.core.errors import TinylaneError\n"
        "for bomb in json.load(sys.stdin):\n"
        "    try: render(bomb, [])\n"
        "    except TinylaneError: continue\n"
        "    raise SystemExit('rendered')\n"
        "from tinylane.checkpoints.chat_template import _worker\n"
        "_worker.close()\n"  # waited for, it counts
        "from tinylane.files.memory import memory\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "rendering = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit\n"
        # Not ru_maxrss for this one: it begins with the size of the process that started it.
        "print(max(rendering, memory()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(bombs),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(chat_template.__file__).parents[2],
    )
    # On macOS the parent looks every 50 ms, and the bound is what can be filled in between.
    assert int(done.stdout) < (1000 if worker.WATCHED else 200) << 20


def test_a_process_that_the_kernel_does_not_limit_is_watched(monkeypatch):
    """The way of macOS, here: no memory limit in the worker, its size looked at from outside."""
    monkeypatch.setattr(worker, "WATCHED", True)
    assert render("{{ 1 + 1 }}", USER) == "2"
    monkeypatch.setattr(worker, "resident", lambda pid: chat_template.MEMORY + 1)
    said = refused("{% for i in range(99999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}")
    assert "memory" in said


def test_what_one_template_did_is_not_there_for_the_next():
    """One process renders them all."""
    assert render("{% set x = 3 %}{% macro f() %}m{% endmacro %}{{ x }}{{ f() }}", USER) == "3m"
    assert "undefined" in refused("{{ f() }}")
    assert render("{{ x is defined }}", USER) == "False"
    once = "{% set n = namespace(k=0) %}{% set n.k = n.k + 1 %}{{ n.k }}{{ y is defined }}"
    assert [render(once, USER, y=1), render(once, USER)] == ["1True", "1False"]


def test_a_rendering_that_gets_no_processor_time_ends(monkeypatch):
    chat_template._worker.close()
    monkeypatch.setattr(chat_template, "WALL_SECONDS", 0.02)
    assert "not rendered after" in refused("{{ 1 }}")


def test_templates_and_arguments_that_cannot_be_passed_are_refused(monkeypatch):
    assert "characters" in refused("a" * (chat_template.LONGEST_TEMPLATE + 1))
    with pytest.raises(TinylaneError, match="plain JSON"):
        render("{{ x }}", USER, x=object())
    with pytest.raises(TinylaneError, match="plain JSON"):
        render("{{ x }}", USER, x={(1, 2): 3})
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(TinylaneError, match="interpreter"):
        render("{{ 1 }}", USER)
