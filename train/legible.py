"""Which characters of a picture's texts this machine can draw, Chinese ones above all. Knows matplotlib's fonts."""

from __future__ import annotations

# What has Chinese glyphs on Linux, macOS and Windows; matplotlib's own font has none.
_CHINESE = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans GB", "Heiti SC", "Microsoft YaHei", "SimHei", "Arial Unicode MS"),
)


def legible(text: str) -> tuple[str, list[str]]:
    """A text that fonts of this machine can show, with ? for what none has, and these fonts' names."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    installed = {font.name for font in fontManager.ttflist}
    family = ["DejaVu Sans", *(name for name in _CHINESE if name in installed)]
    fonts = [get_font(findfont(name)) for name in family]
    return "".join(char if any(font.get_char_index(ord(char)) for font in fonts) else "?" for char in text), family
