"""Blocks of lines between quotes, and what is taken for one."""

from __future__ import annotations

import pytest

from stellar_local.terminal.quotes import is_open, message_of

DOCSTRING = '"""About 星."""\nimport math\n'


@pytest.mark.parametrize(
    ("text", "is_it"),
    [
        ("", False),
        ("plain", False),
        ('say """', False),
        ('"""', True),
        ('"""first', True),
        ('"""first\nsecond', True),
        ('"""first\n"""', False),
        ('"""第一行\n第二行"""  ', False),
        ('"""all"""', False),
        ('""""""', False),
        ('"""a """ b', True),
        (DOCSTRING, False),
    ],
)
def test_a_block_is_open_until_a_line_ends_in_quotes(text: str, is_it: bool) -> None:
    assert is_open(text) is is_it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plain", "plain"),
        ("a\\", "a\\"),
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ('say """', 'say """'),
        ('"""all"""', "all"),
        ('""""""', ""),
        ('"""\n第一行\n\n  第二行\n"""', "第一行\n\n  第二行"),
        ('"""text after\nand before"""  \n', "text after\nand before"),
        ('"""\ndef f():\n    """Doc."""\n    return 1\n"""', 'def f():\n    """Doc."""\n    return 1'),
        (DOCSTRING, DOCSTRING),
        (DOCSTRING + 'x = """y"""', DOCSTRING + 'x = """y"""'),
        ('"""never closed', "never closed"),
        ('""', '""'),
        ('"""""', '""'),
    ],
)
def test_the_message_is_what_stands_inside(text: str, message: str) -> None:
    assert message_of(text) == message
