"""The clipboard's ways: fake tools on PATH, a real tmux, and a terminal made of a string."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from stellar_local.chat import clipboard
from stellar_local.chat.clipboard import OSC_52, copy
from stellar_local.errors import StellarError
from stellar_local.texts import Texts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fake tools are shell scripts")
TEXT = "黑洞 🔭\n$(id) `x` 'q' \\n\t!"
EN = Texts("en")


class Screen(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests' own surroundings have no clipboard, whatever they run in."""
    desktops = ["WAYLAND_DISPLAY", "DISPLAY", "TMUX", "STY", "WSL_DISTRO_NAME"]
    for name in [*desktops, "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "platform", "linux")


Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Puts a program on PATH that keeps its arguments and its input in a file, and then does `then`."""

    def put(name: str, then: str = "", first: str = "") -> Path:
        kept, path = tmp_path / name, tmp_path / "bin" / name
        path.write_text(
            f'#!/bin/sh\n{first}\n/bin/cat > {shlex.quote(str(kept))}\nprintf "%s\\n" "$@" > {kept}.arguments\n{then}\n'
        )
        path.chmod(0o755)
        return kept

    return put


@pytest.mark.parametrize(
    ("tool", "environ", "arguments"),
    [
        ("wl-copy", {"WAYLAND_DISPLAY": "wayland-0"}, ["--type", "text/plain;charset=utf-8"]),
        ("xclip", {"DISPLAY": ":0"}, ["-selection", "clipboard", "-in"]),
        ("xsel", {"DISPLAY": ":0"}, ["--clipboard", "--input"]),
        ("xclip", {"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "1"}, ["-selection", "clipboard", "-in"]),
        ("tmux", {"TMUX": "/tmp/x,1,0"}, ["load-buffer", "-w", "-"]),
        ("tmux", {"TMUX": "/tmp/x,1,0", "SSH_TTY": "/dev/pts/1"}, ["load-buffer", "-w", "-"]),
    ],
)
def test_the_tool_that_fits_gets_the_text(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tool: str, environ: dict[str, str], arguments: list[str]
) -> None:
    kept = fake(tool)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    assert copy(TEXT, screen, EN) == tool
    assert kept.read_bytes().decode() == TEXT
    assert kept.with_suffix(".arguments").read_text().splitlines() == arguments
    assert screen.getvalue() == ""


def test_macos(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    kept = fake("pbcopy", f'echo "$LC_CTYPE" > {fake("locale")}')
    assert copy(TEXT, Screen(), EN) == "pbcopy"
    assert kept.read_bytes().decode() == TEXT
    assert (kept.parent / "locale").read_text() == "UTF-8\n"
    monkeypatch.setenv("SSH_TTY", "/dev/pts/1")
    assert copy(TEXT, Screen(), EN) == OSC_52


def test_windows_gets_base64_which_no_code_page_changes(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSL_DISTRO_NAME", "Ubuntu")
    kept = fake("powershell.exe")
    assert copy(TEXT, Screen(), EN) == "PowerShell"
    assert base64.b64decode(kept.read_bytes(), validate=True).decode() == TEXT
    script = (kept.parent / "powershell.exe.arguments").read_text()
    assert TEXT not in script
    assert "Set-Clipboard" in script


def test_a_tool_is_found_only_where_its_desktop_is(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("wl-copy", "xclip", "xsel", "pbcopy", "powershell.exe", "tmux"):
        fake(tool)
    assert copy(TEXT, Screen(), EN) == OSC_52
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert copy(TEXT, Screen(), EN) == "wl-copy"
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")  # that screen is not the user's
    assert copy(TEXT, Screen(), EN) == OSC_52


def test_a_tool_that_fails_gives_way_to_the_next(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    fake("xclip", "exit 1")
    fake("xsel", "kill -9 $$")
    assert copy(TEXT, Screen(), EN) == OSC_52
    with pytest.raises(StellarError, match="xclip, xsel failed") as caught:
        copy(TEXT, io.StringIO(), EN)
    assert "/export" in caught.value.hint
    kept = fake("xsel")
    assert copy(TEXT, io.StringIO(), EN) == "xsel"
    assert kept.read_text(encoding="utf-8") == TEXT


def test_what_is_no_program_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    (tmp_path / "bin" / "xclip").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "bin" / "xclip").chmod(0o755)
    assert copy(TEXT, Screen(), EN) == OSC_52


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_tool_that_stays_in_the_background_is_not_waited_for(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    kept = fake("xclip", f"/bin/sleep 30 &\necho $! > {tmp_path}/pid")
    begun = time.monotonic()
    assert copy("星" * size, Screen(), EN) == "xclip"
    assert time.monotonic() - begun < 3
    assert kept.stat().st_size == 3 * size
    waiting = int((tmp_path / "pid").read_text())
    try:
        os.kill(waiting, 0)  # it lives
        assert os.getsid(waiting) != os.getsid(0)  # Ctrl-C in the chat, or its terminal closed, does not reach it
    finally:
        os.kill(waiting, 9)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_tool_that_hangs_is_ended(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(clipboard, "_X11", (clipboard._Tool("xclip", ("xclip",), 0.3),))
    fake("xclip", first=f"/bin/sleep 60 &\necho $! > {tmp_path}/pid\nwait")
    begun = time.monotonic()
    with pytest.raises(StellarError, match="xclip failed"):
        copy("x" * size, io.StringIO(), EN)
    assert time.monotonic() - begun < 3
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.02)
    else:
        raise AssertionError("what the tool had started still runs")


def test_the_terminal_is_asked_where_there_is_no_tool() -> None:
    screen = Screen()
    assert copy(TEXT, screen, EN) == OSC_52
    found = re.fullmatch(r"\x1b\]52;c;([A-Za-z0-9+/=]+)\x07", screen.getvalue())
    assert found is not None
    assert base64.b64decode(found[1]).decode() == TEXT


def test_no_terminal_takes_more_than_it_can() -> None:
    screen = Screen()
    copy("a" * 74_994, screen, EN)
    assert len(screen.getvalue()) == 100_000  # with the escapes around it: hterm's and others' limit
    screen = Screen()
    with pytest.raises(StellarError, match="74,995 bytes are more") as caught:
        copy("a" * 74_995, screen, EN)
    assert "/export" in caught.value.hint
    assert screen.getvalue() == ""


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": "linux"}, {"TERM": ""}, {"STY": "1.pts-0"}])
def test_terminals_that_would_show_or_swallow_it_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    with pytest.raises(StellarError, match="no way to a clipboard"):
        copy(TEXT, screen, EN)
    assert screen.getvalue() == ""
    with pytest.raises(StellarError, match="剪贴板"):
        copy(TEXT, screen, Texts("zh"))


def test_what_is_copied_is_as_harmless_as_what_is_shown(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    kept = fake("xclip")
    copy("a\x1b[201~\x9b\x00b\r\n\ud800", Screen(), EN)
    assert kept.read_bytes() == "a␛[201~b\n?".encode()


@pytest.fixture
def tmux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The command line of a tmux server of our own."""
    program = shutil.which("tmux", path="/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin")
    if program is None:
        pytest.skip("tmux is not installed")
    monkeypatch.setenv("PATH", os.path.dirname(program) + os.pathsep + "/bin")  # noqa: PTH120
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    command = [program, "-S", str(tmp_path / "s"), "-f", "/dev/null"]
    yield command
    subprocess.run([*command, "kill-server"], capture_output=True)


def test_in_a_real_tmux(tmux: list[str], tmp_path: Path) -> None:
    """The text is in tmux's buffer, and in the clipboard of the terminal that shows tmux."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from stellar_local.chat.clipboard import copy\n"
        "from stellar_local.texts import Texts\n"
        f"way = copy({TEXT!r}, sys.stdout, Texts('en'))\n"
        "from stellar_local.files import atomic_text\n"
        "from pathlib import Path\n"
        f"atomic_text(Path({str(tmp_path / 'way')!r}), way)\n"
        "sys.stdin.readline()\n"
    )
    inner, outer = pty.openpty()
    pane = shlex.join([sys.executable, "-c", code])
    # Attached first, so that there is a terminal whose clipboard can be set.
    client = subprocess.Popen(
        [*tmux, "new-session", pane], stdin=outer, stdout=outer, stderr=outer, start_new_session=True
    )
    os.close(outer)
    shown, asked, until = b"", None, time.monotonic() + 15
    while not (asked and (tmp_path / "way").exists()) and time.monotonic() < until:
        if select.select([inner], [], [], 0.1)[0]:
            shown += os.read(inner, 65536)
        asked = re.search(rb"\x1b\]52;[^;]*;([A-Za-z0-9+/=]+)[\x07\x1b]", shown)
    buffer = subprocess.run([*tmux, "show-buffer"], capture_output=True, timeout=10).stdout
    client.terminate()
    client.wait()
    os.close(inner)
    assert (tmp_path / "way").read_text() == "tmux"
    assert buffer.decode() == TEXT
    assert asked is not None
    assert base64.b64decode(asked[1]).decode() == TEXT
