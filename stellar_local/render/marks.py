"""What the beginning of a line says in Markdown: CommonMark's marks, tables' rows, and math as models write it.

Knows single lines, without what indents them; knows nothing of the block that a line stands in.
"""

from __future__ import annotations

import re

BULLETS = ("-", "+", "*")
DECIDED_WITHIN = 80  # characters of a line, in which it may show that it begins a list item

_ITEM = re.compile(r"([-+*]|[0-9]{1,9}[.)])( +|$)")
_ITEM_BEGUN = re.compile(r"[ \t>]*(?:[-+*]|[0-9]{1,9}[.)])[ \t]+[*_]*[^\s\-*_]")  # no rule can come of it
_FENCE = re.compile(r"(`{3,})([^`]*)$|(~{3,})(.*)$")
_HEADING = re.compile(r"(#{1,6})(?: +|$)")
_DELIMITER = re.compile(r":?-+:?")
_MATH = re.compile(r"\$\$(?!\$)|\\\[|\\begin\{([A-Za-z]+\*?)\}")
_PIPE = re.compile(r"(?<!\\)\|")
_KEY = re.compile(r"[^\W\d][\w-]*:( |$)")


def indent_of(text: str) -> int:
    """How many spaces a line begins with."""
    return len(text) - len(text.lstrip(" "))


def quoted(line: str) -> str | None:
    """What a line holds after the mark of a quote; None if it has none."""
    indent = indent_of(line)
    return line[indent + 1 :].removeprefix(" ") if indent < 4 and line[indent : indent + 1] == ">" else None


def item(body: str) -> tuple[str, int] | None:
    """A list item's marker, and how far after its beginning the content begins."""
    found = _ITEM.match(body)
    if not found:
        return None
    code = len(found[2]) > 4  # more spaces belong to code in the item
    return found[1], len(found[1]) + 1 if code or found.end() == len(body) else found.end()


def begun_item(begin: str) -> str:
    """As much of a line as shows that it begins a list item whatever follows; "" if it does not, or not yet."""
    found = _ITEM_BEGUN.match(begin[:DECIDED_WITHIN])
    return found[0] if found else ""


def heading(body: str) -> tuple[int, str] | None:
    """A heading's level and title; marks at its end are none of it."""
    found = _HEADING.match(body)
    if not found:
        return None
    title = body[found.end() :].strip(" ")
    bare = title.rstrip("#")
    return len(found[1]), bare.rstrip(" ") if bare[-1:] in ("", " ") else title


def underline(body: str) -> int:
    """The level of the heading that a line makes of the paragraph above it; 0: it does not."""
    line = body.rstrip(" ")
    return {"": 0, "=" * len(line): 1, "-" * len(line): 2}.get(line, 0)


def is_rule(body: str) -> bool:
    """Whether a line is a rule: three or more of the same mark, spaces between them or not."""
    flat = body.replace(" ", "")
    return len(flat) >= 3 and flat[0] in "-*_" and not flat.strip(flat[0])


def fence(body: str) -> tuple[str, str] | None:
    """The marks that open fenced code, and what is said after them: the language first."""
    found = _FENCE.match(body)
    return (found[1] or found[3], (found[2] or found[4] or "").strip(" ")) if found else None


def closes(body: str, opening: str) -> bool:
    """Whether a line ends the fenced code that `opening` began."""
    return body.startswith(opening) and not body.strip(opening[0] + " ")


def math(body: str) -> tuple[str, bool] | None:
    """What closes the displayed math that a line opens, and whether this same line does."""
    found = _MATH.match(body)
    if not found:
        return None
    closer = {"$$": "$$", "\\[": "\\]"}.get(found[0], f"\\end{{{found[1]}}}")
    _, closed, after = body[found.end() :].partition(closer)
    return None if closed and after.strip(" .,;。，；") else (closer, bool(closed))


def is_key(line: str) -> bool:
    """Whether a line is one of front matter: a key and a colon."""
    return bool(_KEY.match(line))


def split_cells(row: str) -> list[str]:
    """The cells of a table's row; an escaped bar is no border."""
    found = [cell.replace("\\|", "|").strip(" ") for cell in _PIPE.split(row.strip(" "))]
    if len(found) > 1 and not found[0]:
        found.pop(0)
    if len(found) > 1 and not found[-1]:
        found.pop()
    return found


def delimits(row: str, header: str) -> bool:
    """Whether a line is the one under a table's header, with a cell for each."""
    marks = split_cells(row)
    return "|" in header and all(map(_DELIMITER.fullmatch, marks)) and len(marks) == len(split_cells(header))
