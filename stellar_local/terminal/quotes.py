'''Messages of several lines: a block between two """, and how typed text becomes a message. Knows text, no terminal.'''

from __future__ import annotations

QUOTES = '"""'


def ends(line: str) -> bool:
    '''Whether a line closes a block: it ends in """.'''
    return line.rstrip().endswith(QUOTES)


def is_open(text: str) -> bool:
    '''Whether `text` began a block with """ that no line has closed yet: a line closes it that ends in """.'''
    return text.startswith(QUOTES) and not any(map(ends, text[len(QUOTES) :].split("\n")))


def message_of(text: str) -> str:
    r"""The message that was typed: the inside of a block without its quotes, else the text; line ends become \n.

    Text whose first line is a block by itself while others follow, as a Python file with a docstring, is no block. A
    block that is still open has all its text inside.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    inside, body = text.rstrip(), text[len(QUOTES) :]
    if is_open(text):
        return body.removeprefix("\n")
    if not text.startswith(QUOTES) or len(inside) < 2 * len(QUOTES) or not ends(inside):
        return text
    first, *others = body.rstrip().split("\n")
    if others and ends(first):
        return text
    return inside[len(QUOTES) : -len(QUOTES)].removeprefix("\n").removesuffix("\n")
