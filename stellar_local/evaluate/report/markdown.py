"""A report as Markdown that GitHub shows: the same tables and texts as the page, bars as characters.

Texts of models and files are escaped, so that nothing in them becomes a heading, a link or HTML. Knows blocks only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...texts import Texts
from .blocks import Answer, Bars, Block, Cell, Charts, Code, Example, Heading, Items, Page, Scale, Table

_ACTIVE = re.compile(r"[\\`*_{}\[\]<>#|~$&@]")
_ADDRESS = re.compile(r"\b(https?|ftp|mailto|xmpp):|\b(www)\.", re.IGNORECASE)  # GitHub makes links of them
# What begins a list or underlines a heading: at a line's start only, and of numbers the point after them.
_LINE_START = re.compile(r"^([ \t]*)([-+=]|(?:\d{1,9})(?=[.)](?:\s|$)))", re.MULTILINE)
_BAR_CELLS = 24
_MARKS = {"best": "★ ", "worse": "▼ ", "": ""}
_VERDICTS = {"right": "✓ ", "wrong": "✗ ", "error": "⚠ ", "": ""}


def markdown(page: Page, texts: Texts) -> str:
    """The whole report."""
    parts = [f"# {_text(page.title)}", " · ".join(map(_text, page.facts))]
    parts.append("\n".join(f"- [{_text(section.title)}](#{section.id})" for section in page.sections))
    for section in page.sections:
        parts.append(f'<a id="{section.id}"></a>\n\n## {_text(section.title)}')
        parts += [_block(block, texts) for block in section.blocks]
    parts += ["---", _text(page.end)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _block(block: Block, texts: Texts) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Charts):
        return "\n\n".join(_bars(chart) for chart in block.charts if isinstance(chart, Bars))
    if isinstance(block, Example):
        return _example(block, texts)
    if isinstance(block, Items):
        lines = "\n".join(f"- {_text(text)}" for text in block.texts)
        return "> [!WARNING]\n" + "\n".join(f"> {line}" for line in lines.split("\n")) if block.warning else lines
    if isinstance(block, Code):
        return _fenced(block.text)
    return f"### {_text(block.text)}" if isinstance(block, Heading) else _text(block.text)


def _table(table: Table) -> str:
    lines = [_row(_cell(cell) for cell in table.head), _row("---" for _ in table.head)]
    for part in table.parts:
        if part.title:
            lines.append(_row([f"**{_text(part.title)}**", *[""] * (len(table.head) - 1)]))
        lines += [_row(_cell(cell) for cell in (row.head, *row.cells)) for row in part.rows]
    text = "\n".join(lines)
    caption = _text(table.caption)
    if table.folded:
        return f"<details>\n<summary>{caption}</summary>\n\n{text}\n\n</details>"
    return f"**{caption}**\n\n{text}"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    text = _code(cell.text) if cell.code else _text(cell.text)
    note = f"<br>{_text(cell.note)}" if cell.note else ""
    return f"{_MARKS[cell.mark]}{text}{note}".replace("\n", "<br>")


def _bars(chart: Bars) -> str:
    """Bars as a block of code: there all characters are of one width."""
    from ...console import cells

    width = max(cells(bar.label) for _, bars in chart.groups for bar in bars)
    lines = [chart.caption]
    for title, bars in chart.groups:
        lines += ["", title] if title else [""]
        for bar in bars:
            name = bar.label + " " * (width - cells(bar.label))
            interval = f"  [{bar.interval.strip('[]')}]" if bar.interval else ""
            lines.append(f"{name}  {_drawn(chart.scale, bar.value)}  {bar.text}{interval}")
    return _fenced("\n".join(lines))


def _drawn(scale: Scale, value: float) -> str:
    """A bar of characters from the axis' zero to the value."""
    ends = sorted(round(_BAR_CELLS * scale.share(one)) for one in (0.0, value))
    return "░" * ends[0] + "█" * (ends[1] - ends[0]) + "░" * (_BAR_CELLS - ends[1])


def _example(example: Example, texts: Texts) -> str:
    lines = [f"**{_text(example.title)}**", _quoted(example.question)]
    if example.expected:
        lines.append(f"{_text(texts('report.expected'))} {_inline(example.expected)}")
    head = [
        _row([_text(texts("report.model")), _text(texts("report.verdict")), _text(texts("report.answer"))]),
        _row(["---"] * 3),
    ]
    return "\n\n".join(filter(None, lines)) + "\n\n" + "\n".join([*head, *map(_answer, example.answers)])


def _answer(answer: Answer) -> str:
    note = f"<br>({_text(answer.note)})" if answer.note else ""
    names = "<br>".join(_text(model) for model, _ in answer.models)
    return _row([names, f"{_VERDICTS[answer.verdict]}{_text(answer.told)}", _inline(answer.text) + note])


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}  " for line in _text(text).split("\n")) if text else ""


def _inline(text: str) -> str:
    """Text of many lines within a cell or a line."""
    return _text(text).replace("\n", "<br>")


def _text(text: str) -> str:
    """Text with all escaped that Markdown, GitHub or HTML would read as more than text."""
    escaped = _ACTIVE.sub(_harmless, re.sub(r"\n{2,}", "\n", text))
    escaped = _ADDRESS.sub(lambda found: f"{found[1]}&#58;" if found[1] else f"{found[2]}&#46;", escaped)
    return _LINE_START.sub(_begun, escaped)


def _harmless(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};" if found[0] in "&<>@$" else f"\\{found[0]}"


def _begun(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}\\" if found[2].isdecimal() else f"{found[1]}\\{found[2]}"


def _code(text: str) -> str:
    """A code span in a cell of a table: a bar would end the cell even there, so its look-alike stands for it."""
    text = " ".join(text.split()).replace("|", "\u2223")
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks} {text} {marks}" if "`" in text else f"{marks}{text}{marks}"


def _fenced(text: str) -> str:
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}text\n{text}\n{marks}"
