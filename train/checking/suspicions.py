"""What looks wrong in the text of one row and may still be meant: never more than a note. Knows no tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..corpus import Triple
from ..likeness.normal import begins_with, normalise
from .findings import CONTROL, ECHO, FOREIGN_NAME, PLACEHOLDER, SPECIAL

# Tab, line feed and carriage return are text; U+FFFD stands where an earlier program could not read a character.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffd]")
_SPECIAL = re.compile(r"</?s>|<\|[^|<>\s]{1,40}\|>|<(?:pad|unk|bos|eos)>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
_PLACEHOLDER = re.compile(
    r"\[(?:NAME|YOUR NAME|INSTITUTE|INSTITUTION|ORGANI[SZ]ATION|COMPANY|DEVELOPER|AUTHOR"
    r"|机构|名字|姓名|名称|公司|开发者|作者)\]"
    r"|\{\{\s*\w+\s*\}\}|<(?:NAME|AUTHOR|ORGANIZATION|COMPANY)>",
    re.IGNORECASE,
)
_IDENTITY = re.compile(
    r"who (?:are|r) (?:you|u)\b|your name|what are you\b|(?:who|which \w+) (?:made|built|created|trained|developed) you"
    r"|\bare you\b|introduce yourself|about yourself|你是谁|您是谁|你叫|您叫|你的名字|(?:你|您)是[^。？?]{1,20}吗"
    r"|谁[^。？?]{0,6}(?:开发|创造|训练|研发|设计)[^。？?]{0,3}(?:你|您)|介绍[^。？?]{0,4}自己|自我介绍",
    re.IGNORECASE,
)
# Not between word boundaries: to Python there is none between a Chinese character and a letter.
_MODELS = re.compile(
    r"(?<![A-Za-z])(?:ChatGPT|GPT-?[345][\w.]*|OpenAI|BayLing|LLaMA|Alpaca|Vicuna|Qwen|Claude|Anthropic|Gemini|DeepSeek"
    r"|Mistral|SmolLM\d?|Hugging ?Face|ChatGLM|InternLM|Baichuan)(?![A-Za-z])"
    r"|百聆|文心一言|通义千问|豆包|讯飞星火|智谱清言|深度求索",
    re.IGNORECASE,
)
_LONG_ENOUGH = 12  # characters of a normalised question, from which its repetition is no chance


def suspicions(row: Triple) -> Iterator[tuple[str, str]]:
    """The kinds of what looks wrong, each with what was seen; each kind at most once."""
    whole = f"{row.instruction}\n{row.input}\n{row.output}"
    if found := _CONTROL.search(whole):
        yield CONTROL, f"U+{ord(found[0]):04X}"
    if found := _SPECIAL.search(whole):
        yield SPECIAL, found[0]
    if found := _PLACEHOLDER.search(whole):
        yield PLACEHOLDER, found[0]
    if _IDENTITY.search(row.instruction) and (found := _MODELS.search(row.output)):
        yield FOREIGN_NAME, found[0]
    if row.output.lstrip()[:1].casefold() == row.instruction.lstrip()[:1].casefold():  # else not worth its time
        question, answer = normalise(row.instruction), normalise(row.output)
        if answer == question or (len(question) >= _LONG_ENOUGH and begins_with(answer, question)):
            yield ECHO, ""
