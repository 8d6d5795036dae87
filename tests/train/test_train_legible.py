"""What a picture can show: by the fonts that there are."""

from __future__ import annotations

import pytest

from train import legible


def test_a_font_that_has_the_characters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.font_manager import findfont, get_font

    own = set(get_font(findfont("DejaVu Sans")).get_charmap())
    other = set(get_font(findfont("STIXGeneral")).get_charmap())  # it comes with matplotlib too
    char = chr(min(code for code in other - own if code > 0xFF))
    monkeypatch.setattr(legible, "_CHINESE", ())
    assert legible.legible(f"a{char}") == ("a?", ["DejaVu Sans"])
    monkeypatch.setattr(legible, "_CHINESE", ("No Such Font", "STIXGeneral"))
    assert legible.legible(f"a{char}") == (f"a{char}", ["DejaVu Sans", "STIXGeneral"])
