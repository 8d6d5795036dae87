"""Charts as SVG that grows with the page: across in shares of the width, so that its text stays readable on a phone.

Colours are the page's, by class, so they follow light and dark. Knows charts; knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ...console import cells, cut
from .blocks import Bar, Bars, Point, Points, Scale

SERIES = 8  # colours; the ninth model has the first again, and its name beside it
_LEFT, _RIGHT = 37.0, 83.0  # of bars, in percent of the width: names stand left of them, values right
_BAR, _STEP, _TITLE, _FOOT = 11, 19, 24, 20  # pixels
_NAME_CELLS = 19  # columns of a name that has room left of the bars on a phone
_PLANE_LEFT, _PLANE_RIGHT, _PLANE_TOP, _PLANE_HEIGHT = 15.0, 96.0, 16, 236
_NARROW, _CELL, _LINE = 360, 7.2, 16  # pixels: the narrowest plane, a column of text, and a line of it


def bars(chart: Bars) -> list[str]:
    """Bars, a drawing a group, all on the same scale; intervals are lines across the bars' ends."""
    drawings = []
    for title, group in chart.groups:
        top = _TITLE if title else 0
        bottom = top + _STEP * len(group) + 2
        parts = [f'<text class="t" x="0" y="15">{escape(title)}</text>'] if title else []
        ticks = chart.scale.ticks
        every = 2 if len(ticks) > 3 and max(len(text) for _, text in ticks) > 3 else 1  # on a phone they would touch
        for number, (value, text) in enumerate(ticks):
            x = _across(chart.scale, value, _LEFT, _RIGHT)
            parts.append(f'<line class="g" x1="{x}%" x2="{x}%" y1="{top}" y2="{bottom}"/>')
            if number % every:
                continue
            parts.append(f'<text class="k" x="{x}%" y="{bottom + 14}" text-anchor="middle">{escape(text)}</text>')
        parts += [_bar(bar, chart.scale, top + _STEP * number) for number, bar in enumerate(group)]
        drawings.append(_svg(": ".join(filter(None, [chart.caption, title])), bottom + _FOOT, parts))
    return drawings


def _bar(bar: Bar, scale: Scale, y: int) -> str:
    zero, end = (_across(scale, value, _LEFT, _RIGHT) for value in (0.0, bar.value))
    middle = y + _STEP / 2
    told = f"{bar.label}: {bar.text}" + (f" [{bar.interval}]" if bar.interval else "")
    parts = [
        f"<g><title>{escape(told)}</title>",
        f'<text class="n" x="{_LEFT - 1.5}%" y="{middle + 4}" text-anchor="end">{escape(_short(bar.label))}</text>',
        f'<rect class="s{bar.series % SERIES}" x="{min(zero, end)}%" y="{middle - _BAR / 2}"'
        f' width="{abs(end - zero):.2f}%" height="{_BAR}" rx="2"/>',
    ]
    if bar.low is not None and bar.high is not None:
        low, high = (_across(scale, value, _LEFT, _RIGHT) for value in (bar.low, bar.high))
        parts.append(
            f'<line class="w" x1="{low}%" x2="{high}%" y1="{middle}" y2="{middle}"/>'
            + "".join(f'<line class="w" x1="{x}%" x2="{x}%" y1="{middle - 4}" y2="{middle + 4}"/>' for x in (low, high))
        )
    parts.append(f'<text class="v" x="100%" y="{middle + 4}" text-anchor="end">{escape(bar.text)}</text></g>')
    return "".join(parts)


def points(chart: Points) -> str:
    """Points in a plane with their names beside them and their intervals as upright lines."""
    across, up = chart.across, chart.up
    bottom = _PLANE_TOP + _PLANE_HEIGHT
    parts = [f'<text class="k" x="0" y="{_PLANE_TOP - 4}">{escape(up.title)}</text>']
    for value, text in up.ticks:
        y = _down(up, value)
        parts.append(f'<line class="g" x1="{_PLANE_LEFT}%" x2="{_PLANE_RIGHT}%" y1="{y}" y2="{y}"/>')
        if y > _PLANE_TOP + 8:  # the axis' title stands there
            parts.append(
                f'<text class="k" x="{_PLANE_LEFT - 1.5}%" y="{y + 4}" text-anchor="end">{escape(text)}</text>'
            )
    for value, text in across.ticks:
        x = _across(across, value, _PLANE_LEFT, _PLANE_RIGHT)
        parts.append(f'<line class="g" x1="{x}%" x2="{x}%" y1="{_PLANE_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="k" x="{x}%" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>')
    middle = (_PLANE_LEFT + _PLANE_RIGHT) / 2
    parts.append(f'<text class="k" x="{middle}%" y="{bottom + 34}" text-anchor="middle">{escape(across.title)}</text>')
    for point, shift, left in zip(chart.points, *_places(chart.points, across, up), strict=True):
        parts.append(_point(point, across, up, shift, left))
    return _svg(chart.caption, bottom + 42, parts)


def _point(point: Point, across: Scale, up: Scale, shift: float, left: bool) -> str:
    """A point and what belongs to it, in pixels around it; its name `shift` pixels further down."""
    y = _down(up, point.y)
    parts = [f"<title>{escape(point.text)}</title>"]
    if point.low is not None and point.high is not None:
        top, foot = _down(up, point.high) - y, _down(up, point.low) - y
        parts += [f'<line class="w" x1="0" x2="0" y1="{top:.1f}" y2="{foot:.1f}"/>']
        parts += [f'<line class="w" x1="-4" x2="4" y1="{end:.1f}" y2="{end:.1f}"/>' for end in (top, foot)]
    side = -1 if left else 1
    if abs(shift) > 2:
        parts.append(f'<line class="l" x1="{5 * side}" y1="0" x2="{12 * side}" y2="{shift:.1f}"/>')
    parts.append(f'<circle class="s{point.series % SERIES}" r="5.5"/>')
    parts.append(
        f'<text class="n" x="{(14 if abs(shift) > 2 else 10) * side}" y="{shift + 4:.1f}"'
        f' text-anchor="{"end" if left else "start"}">{escape(_short(point.label))}</text>'
    )
    x = _across(across, point.x, _PLANE_LEFT, _PLANE_RIGHT)
    return f'<svg class="p" x="{x}%" y="{y:.1f}" overflow="visible">{"".join(parts)}</svg>'


def _places(shown: Sequence[Point], across: Scale, up: Scale) -> tuple[list[float], list[bool]]:
    """For each point how far its name is moved down, and whether it stands on the left.

    No two names overlap, on the narrowest plane either, and on a wider one there is more room between all; points are
    not written over, and other points' intervals only where there is no better place.
    """
    far = _PLANE_TOP + _PLANE_HEIGHT - 6
    homes = [_across(across, point.x, _PLANE_LEFT, _PLANE_RIGHT) / 100 * _NARROW for point in shown]
    heights = [_down(up, point.y) for point in shown]
    # Left end, right end, top and bottom of what is in the way: points first, then the names that have their places.
    taken = [(x - 7, x + 7, y - 7, y + 7) for x, y in zip(homes, heights, strict=True)]
    spans = []
    for x, point in zip(homes, shown, strict=True):
        high, low = (point.y if end is None else end for end in (point.high, point.low))
        spans.append((x - 4, x + 4, _down(up, high), _down(up, low)))
    shifts, lefts = [0.0] * len(shown), [False] * len(shown)
    for index in sorted(range(len(shown)), key=lambda index: heights[index]):
        x, y = homes[index], heights[index]
        width = 16 + _CELL * cells(_short(shown[index].label))
        usual = across.share(shown[index].x) > 0.6
        best: tuple[float, float, bool, tuple[float, float, float, float]] | None = None
        for left in (usual, not usual):
            begin, end = (x - width, x - 9) if left else (x + 9, x + width)
            for shift in (step * _LINE / 4 for step in range(-32, 33)):
                box = begin, end, y + shift - _LINE / 2, y + shift + _LINE / 2
                if box[2] < _PLANE_TOP - 4 or box[3] > far + 4 or begin < 0 or end > _NARROW:
                    continue
                if any(_overlap(box, other) for other in taken):
                    continue
                crossed = sum(_overlap(box, other) for number, other in enumerate(spans) if number != index)
                cost = abs(shift) + 14 * crossed + (10 if left != usual else 0)
                if best is None or cost < best[0]:
                    best = cost, shift, left, box
        if best is not None:
            _, shifts[index], lefts[index], box = best
            taken.append(box)
        else:
            lefts[index] = usual
    return shifts, lefts


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _across(scale: Scale, value: float, left: float, right: float) -> float:
    return round(left + (right - left) * scale.share(value), 2)


def _down(scale: Scale, value: float) -> float:
    return round(_PLANE_TOP + _PLANE_HEIGHT * (1 - scale.share(value)), 2)


def _short(label: str) -> str:
    """A name that has room beside bars: of a long one the beginning, and the end, where levels stand."""
    if cells(label) <= _NAME_CELLS:
        return label
    half = _NAME_CELLS // 2
    return f"{cut(label, half)}…{cut(label[::-1], half)[::-1]}"


def _svg(label: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" width="100%"'
        f' height="{height:.0f}">{"".join(parts)}</svg>'
    )
