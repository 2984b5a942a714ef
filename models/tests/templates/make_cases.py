#!/usr/bin/env python3
"""Writes cases.json: what Jinja2 makes of the templates here, set up as transformers sets it up.

    pip install jinja2
    make_cases.py

The settings are those of `transformers.utils.chat_template_utils` (trim_blocks, lstrip_blocks, loop controls, its
tojson, raise_exception and strftime_now), with the clock at 2025-01-20.
"""
import datetime
import json
from pathlib import Path

import jinja2
import jinja2.sandbox

HERE = Path(__file__).parent
NOW = datetime.datetime(2025, 1, 20, 12, 34, 56)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


env = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = NOW.strftime

USER = {"role": "user", "content": "What is 2+2?"}
SYSTEM = {"role": "system", "content": "Be <brief> & 'kind'."}
THOUGHT = {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4."}
NEXT = {"role": "user", "content": "  And 3+3?\n你好 👍"}
CALL = {"type": "function", "function": {"name": "sum", "arguments": '{"a": 1, "b": [2, 3]}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "6"}
TOOLS = [{"type": "function", "function": {"name": "sum", "description": "Adds <é> & 'more'",
          "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": []}}}]

CASES = [
    ("deepseek-r1", [USER], {}),
    ("deepseek-r1", [USER], {"add_generation_prompt": False}),
    ("deepseek-r1", [SYSTEM, USER, THOUGHT, NEXT], {}),
    ("deepseek-r1", [SYSTEM, USER, CALLS, RESULT], {}),
    ("deepseek-r1", [USER, CALLS, RESULT, RESULT, {"role": "assistant", "content": "It is 6."}, NEXT], {}),
    ("qwen3", [USER], {}),
    ("qwen3", [USER], {"enable_thinking": False}),
    ("qwen3", [SYSTEM, USER, THOUGHT, NEXT], {}),
    ("qwen3", [USER, {"role": "assistant", "content": "4.", "reasoning_content": "\nadd\n"}], {"add_generation_prompt": False}),
    ("qwen3", [SYSTEM, USER, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL["function"]]}, RESULT, RESULT], {"tools": TOOLS}),
    ("features", [SYSTEM, USER, USER, {"role": "assistant", "content": " 4! ", "extra": {"k": "v", "n": [1, {"x": True}]}}], {}),
    ("features", [{"role": "skip", "content": "x"}, {"role": "user", "content": " Hello, world?!"}], {"tools": TOOLS, "enable_thinking": False}),
    ("features", [USER, {"role": "robot", "content": "beep"}], {}),
]


def render(name, messages, options):
    template = env.from_string((HERE / f"{name}.jinja").read_text(encoding="utf-8"))
    variables = {"add_generation_prompt": True, "enable_thinking": True, "tools": None, **options}
    try:
        text = template.render(messages=messages, bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>",
                               documents=None, **variables)
        return {"text": text}
    except jinja2.exceptions.TemplateError as e:
        return {"rejected": str(e)}


cases = [{"template": n, "messages": m, "options": o, **render(n, m, o)} for n, m, o in CASES]
(HERE / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
