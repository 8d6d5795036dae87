"""Sessions on disk: saved whole or not at all, private, locked, and never lost because one of them is damaged."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from stellar_local.chat.saved import VERSION, SavedTurn, Session, local_time, name_fault, now, seconds
from stellar_local.chat.sessions import Store, sessions_folder
from stellar_local.errors import StellarError, UsageError
from stellar_local.texts import Texts

PARENT = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + (
    "from pathlib import Path\n"
    "from stellar_local.chat.saved import SavedTurn, Session\n"
    "from stellar_local.chat.sessions import Store\n"
    "from stellar_local.texts import Texts\n"
    "from stellar_local.errors import StellarError\n"
    "store = Store(Path(sys.argv[1]), Texts('en'))\n"
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data" / "sessions", Texts("en"))


def session(name: str = "黑洞", turns: int = 2) -> Session:
    return Session(
        name,
        model="/models/星语 13b-Q4_K_M.gguf",
        vocabulary="5f2c",
        template="bayling",
        system="",
        settings={"temperature": 0.2, "stop": ["</s>", "。"], "seed": None},
        lora=["astro.gguf:0.8"],
        grammar='root ::= "a"\n',
        turns=[SavedTurn(f"问 {n}\n二", f"答 {n} \x1b[31m\u2028\x9b", [n, 2**31 - 1], "length") for n in range(turns)],
    )


def start(code: str, store: Store) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", PARENT + code, store.folder], stdout=pipe, stdin=pipe, text=True)


def elsewhere(name: str, store: Store) -> str:
    """Whether another process could open a session: "free" or "held"."""
    code = f"try:\n  with store.lock({name!r}): print('free')\nexcept StellarError: print('held')\n"
    return start(code, store).communicate(timeout=20)[0].strip()


def test_what_is_saved_comes_back(store: Store) -> None:
    first = session()
    store.save(first)
    assert store.load("黑洞") == first
    text = (store.folder / "黑洞.json").read_bytes().decode()
    assert "星语" in text
    assert not any(char in text for char in "\x1b\x9b\u2028")  # shown by cat, it drives no terminal
    assert json.loads(text)["version"] == VERSION


def test_times_are_stamped(store: Store) -> None:
    one = session()
    created, before = one.created, time.time()
    store.save(one)
    assert before - 0.01 <= seconds(one.updated) <= time.time()
    assert (store.load("黑洞").created, store.load("黑洞").updated) == (created, one.updated)


def test_conversations_are_private(store: Store) -> None:
    old = os.umask(0)
    try:
        store.save(session())
        with store.lock("黑洞"):
            pass
    finally:
        os.umask(old)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert (store.folder / "黑洞.json").stat().st_mode & 0o777 == 0o600


def test_half_characters_do_not_prevent_saving(store: Store) -> None:
    one = Session("a", settings={"stop": ["\ud83c"]}, turns=[SavedTurn("q\udce4", "\ud800a")])
    store.save(one)
    back = store.load("a")
    assert (back.turns[0].question, back.turns[0].answer, back.settings["stop"]) == ("q\ufffd", "\ufffda", ["\ufffd"])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_any_moment_there_is_the_old_file_or_the_new(store: Store) -> None:
    store.save(Session("a"))
    code = (
        "one = store.load('a')\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    count = len(one.turns) % 40\n"
        "    one.turns = [SavedTurn('q' * 3000, str(count + 1), [count] * 500) for _ in range(count + 1)]\n"
        "    store.save(one)\n"
    )
    chance, seen, left = random.Random(5), set(), 0
    for _ in range(8):
        process = start(code, store)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.wait()
        turns = store.load("a").turns
        seen.add(len(turns))
        left += (store.folder / "a.json.partial").exists()
        assert all((turn.answer, len(turn.tokens)) == (str(len(turns)), 500) for turn in turns)
    assert len(seen) > 2  # it was saving when it was killed
    store.save(store.load("a"))
    assert [path.name for path in store.folder.iterdir()] == ["a.json"], left


GOOD = json.dumps(session("x", 1).record())


def changed(**values: object) -> str:
    return json.dumps({**json.loads(GOOD), **values})


def turned(**values: object) -> str:
    record = json.loads(GOOD)
    return json.dumps({**record, "turns": [{**record["turns"][0], **values}]})


DAMAGES = {
    "empty": "",
    "cut": GOOD[:-20],
    "cut in a character": GOOD.encode()[:30] + "星".encode()[:2],
    "not JSON": "Hello",
    "binary": bytes(range(256)),
    "zeros": bytes(4096),
    "nested": "[" * 200_000,
    "nested objects": '{"a":' * 100_000,
    "a list": "[]",
    "no version": json.dumps({key: value for key, value in json.loads(GOOD).items() if key != "version"}),
    "version 0": changed(version=0),
    "version text": changed(version="1"),
    "version true": changed(version=True),
    "no turns": json.dumps({key: value for key, value in json.loads(GOOD).items() if key != "turns"}),
    "turns object": changed(turns={}),
    "turn text": changed(turns=["q"]),
    "turn without answer": changed(turns=[{"question": "q"}]),
    "answer null": turned(answer=None),
    "token negative": turned(tokens=[-1]),
    "token float": turned(tokens=[1.0]),
    "token true": turned(tokens=[True]),
    "token too large": turned(tokens=[1 << 31]),
    "finish": turned(finish="error"),
    "finish list": turned(finish=[]),
    "time": turned(time="yesterday"),
    "time without zone": changed(updated="2026-11-24T16:32:00"),
    "half a character": GOOD.replace("bayling", "\\ud800"),
    "half a character in settings": changed(settings={"stop": "X"}).replace('"X"', '"\\udfff"'),
    "settings": changed(settings=[]),
    "NaN": changed(settings={"temperature": float("nan")}),
    "a number of 5,000 digits": GOOD.replace("0.2", "1" * 5000) if sys.version_info >= (3, 11) else "{",
    "lora": changed(lora=[1]),
    "system": changed(system=3),
    "name": changed(name=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_session_is_set_aside_and_the_others_work(store: Store, damage: str) -> None:
    store.save(session("good"))
    data = DAMAGES[damage]
    bytes_of = data if isinstance(data, bytes) else data.encode()
    (store.folder / "x.json").write_bytes(bytes_of)
    store.kv_path("x").write_bytes(b"cache")
    with pytest.raises(StellarError, match="the session x is damaged: .*set aside as .*x.json.damaged$") as caught:
        store.load("x")
    assert caught.value.hint == "the other sessions are not affected"
    assert (store.folder / "x.json.damaged").read_bytes() == bytes_of
    assert not store.kv_path("x").exists()
    assert store.names() == ["good"]
    assert store.load("good").turns
    with pytest.raises(UsageError, match="there is no session x"):
        store.load("x")


def test_each_damaged_file_is_kept_and_told_of(store: Store) -> None:
    store.save(session("good"))
    for number in range(3):
        (store.folder / "x.json").write_text(str(number))
        assert [one.name for one in store.summaries()] == ["good"]
        assert len(store.problems) == 1
        assert "x.json.damaged" in store.problems[0]
    assert [(store.folder / f"x.json.damaged{end}").read_text() for end in ("", ".1", ".2")] == ["0", "1", "2"]
    store.summaries()
    assert store.problems == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_set_aside_without_being_opened(store: Store) -> None:
    store.save(session("good"))
    (store.folder / "folder.json").mkdir()
    os.mkfifo(store.folder / "pipe.json")
    (store.folder / "device.json").symlink_to("/dev/zero")
    assert [one.name for one in store.summaries()] == ["good"]
    assert len(store.problems) == 3
    assert all("not a regular file" in problem for problem in store.problems)
    assert (store.folder / "folder.json.damaged").is_dir()
    assert Path("/dev/zero").exists()


def test_an_unreadable_file_is_set_aside(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(session("x"))
    reading = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "x.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        return reading(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the tests may run as root, whom no permission stops
    with pytest.raises(StellarError, match="permissions .* set aside"):
        store.load("x")
    assert (store.folder / "x.json.damaged").exists()


def test_a_disk_that_fails_to_read_sets_nothing_aside(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(session("x"))

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(StellarError, match="cannot read .*x.json: input/output error"):
        store.load("x")
    assert store.summaries() == []
    assert len(store.problems) == 1
    assert store.names() == ["x"]


@pytest.mark.parametrize("data", [changed(version=2, turns=3), changed(tags=[]), turned(liked=True)])
def test_a_session_of_a_later_version_is_refused_and_stays(store: Store, data: str) -> None:
    store.save(session("good"))
    (store.folder / "x.json").write_text(data)
    with pytest.raises(StellarError, match="newer version") as caught:
        store.load("x")
    assert "update" in caught.value.hint
    assert [one.name for one in store.summaries()] == ["good"]
    assert len(store.problems) == 1
    assert (store.folder / "x.json").read_text() == data


def test_a_full_disk_leaves_the_old_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(session("a", 1))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StellarError, match="cannot write .*a.json: no space left") as caught:
        store.save(session("a", 2))
    assert "free some space" in caught.value.hint
    monkeypatch.undo()
    assert len(store.load("a").turns) == 1
    assert [path.name for path in store.folder.iterdir()] == ["a.json"]


def test_a_write_that_the_system_refuses_leaves_the_old_file(store: Store) -> None:
    pytest.importorskip("resource")
    store.save(session("a", 1))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "one = store.load('a'); one.turns *= 100\n"
        "try: store.save(one)\n"
        "except StellarError as error: print(error.message)\n"
    )
    out, _ = start(code, store).communicate(timeout=20)
    assert "a.json: file too large" in out
    assert len(store.load("a").turns) == 1
    assert [path.name for path in store.folder.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        store = Store(folder, Texts("en"))
        with pytest.raises(StellarError, match="not a directory"):
            store.save(session())
        with pytest.raises(StellarError, match="not a directory"), store.lock("a"):
            pass


def test_an_empty_store(store: Store) -> None:
    assert (store.names(), store.summaries(), store.last()) == ([], [], None)
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("..", "dot"),
        (".hidden", "dot"),
        ("end.", "dot"),
        ("../up", "dot"),
        ("a/b", "character"),
        ("a\\b", "character"),
        ("C:x", "character"),
        ("a?", "character"),
        ("a\x00b", "character"),
        ("a\nb", "character"),
        ("a\x1b[2Jb", "character"),
        ("a\x9bb", "character"),
        ("a\u202eb", "nobody sees"),
        ("a\u200bb", "nobody sees"),
        ("a\udce4", "character"),
        ("con", "device"),
        ("Nul.txt", "device"),
        ("COM1", "device"),
        ("lpt³", "device"),
        ("星" * 27, "80 bytes"),
        ("a" * 81, "80 bytes"),
    ],
)
def test_names_that_are_refused(store: Store, name: str, why: str) -> None:
    for action in (store.load, store.delete, store.kv_path, store.checked):
        with pytest.raises(UsageError, match=f"(?s)a session cannot be named .*{why}") as caught:
            action(name)
        assert caught.value.hint
        assert name_fault(name.strip()) is not None
    with pytest.raises(UsageError, match="cannot be named"):
        store.save(Session(name))
    store.save(Session("a"))
    with pytest.raises(UsageError, match="cannot be named"):
        store.rename("a", name)
    with pytest.raises(UsageError, match="cannot be named"), store.lock(name):
        pass


@pytest.mark.parametrize(
    "name", ["黑洞", "a b", "Ästhetik", "v1.2", "-x", "🔭", "星" * 26, "console", "com10", "a.json"]
)
def test_names_that_are_fine(store: Store, name: str) -> None:
    store.save(Session(name))
    assert store.names() == [name]
    assert store.load(f" {name} ").name == name


def test_a_name_in_decomposed_form_is_the_same(store: Store) -> None:
    store.save(Session("Cafe\u0301"))
    assert store.names() == ["Caf\u00e9"]
    assert store.load("Cafe\u0301").name == "Caf\u00e9"
    assert store.exists(" Cafe\u0301 ")
    assert not store.exists("cafe")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=30))
def test_a_name_that_is_taken_stays_in_the_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    store = Store(tmp_path_factory.getbasetemp() / "names", Texts("zh"))
    try:
        path = store.kv_path(name)
    except UsageError:
        return
    assert path.parent == store.folder
    assert Path(os.path.normpath(path)) == path
    assert len(os.fsencode(path.name)) <= 83


def test_files_that_are_no_sessions_are_left_alone(store: Store) -> None:
    store.save(session("a"))
    for name in (
        ".a.json",
        "._a.json",
        "a.json.partial",
        "b.kv",
        "c.json.damaged",
        "d:e.json",
        "con.json",
        "notes.txt",
    ):
        (store.folder / name).write_text("?")
    os.close(os.open(os.fsencode(store.folder) + b"/\xe4.json", os.O_CREAT))
    before = sorted(os.listdir(store.folder))  # noqa: PTH208
    assert [one.name for one in store.summaries()] == ["a"]
    assert sorted(os.listdir(store.folder)) == before  # noqa: PTH208


def test_summaries_are_newest_first(store: Store) -> None:
    for name in ("b", "a", "c"):
        store.save(session(name, 2))
        time.sleep(0.01)
    store.save(Session("空", model="m.gguf"))
    lines = store.summaries()
    assert [one.name for one in lines] == ["空", "c", "a", "b"]
    assert (lines[0].turns, lines[0].first, lines[0].model) == (0, "", "m.gguf")
    assert (lines[1].turns, lines[1].first) == (2, "问 0\n二")


def test_the_last_is_the_one_saved_last_even_if_files_were_copied(store: Store) -> None:
    for name in ("old", "newest", "older"):
        one = session(name)
        store.save(one)
        one.updated = f"2025-01-0{1 + (name == 'newest')}T00:00:00.000+00:00"
        (store.folder / f"{name}.json").write_text(json.dumps(one.record()))
        os.utime(store.folder / f"{name}.json", (1e9, time.time() - 100 * (name == "newest")))
    assert store.last() == "newest"
    (store.folder / "damaged.json").write_text("?")
    assert store.last() == "newest"
    assert "damaged" in store.problems[0]
    store.save(session("now"))
    assert store.last() == "now"


def test_the_last_reads_no_more_than_it_must(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        store.save(session(f"s{number}"))
        os.utime(store.folder / f"s{number}.json", (1e9, time.time() - 1000 + 10 * number))
    store.save(session("latest"))
    read, reading = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.stem), reading(path))[1])
    assert store.last() == "latest"
    assert read == ["latest"]


def test_a_session_takes_the_name_of_its_file(store: Store) -> None:
    store.save(session("a"))
    (store.folder / "a.json").rename(store.folder / "b.json")
    assert store.load("b").name == "b"


def test_rename_moves_the_cache_too(store: Store) -> None:
    one = session("a")
    store.save(one)
    store.kv_path("a").write_bytes(b"cache")
    store.rename("a", "乙")
    assert sorted(path.name for path in store.folder.iterdir()) == ["乙.json", "乙.kv"]
    assert store.load("乙").turns == one.turns
    store.save(session("c"))
    store.kv_path("d").write_bytes(b"left by a killed process")
    store.rename("c", "d")
    assert not store.kv_path("d").exists()
    store.rename("d", "d")
    with pytest.raises(UsageError, match="there is a session 乙 already") as caught:
        store.rename("d", "乙")
    assert "/delete" in caught.value.hint
    with pytest.raises(UsageError, match="there is no session gone"):
        store.rename("gone", "e")
    assert sorted(store.names()) == ["d", "乙"]
    assert not list(store.folder.glob(".*"))


def test_delete_removes_all_of_it(store: Store) -> None:
    store.save(session("a"))
    store.save(session("b"))
    for name in ("a.kv", "a.kv.partial", "a.json.partial"):
        (store.folder / name).write_text("private")
    store.delete("a")
    assert [path.name for path in store.folder.iterdir()] == ["b.json"]
    with pytest.raises(UsageError, match="there is no session a") as caught:
        store.delete("a")
    assert "/sessions" in caught.value.hint


def test_new_names_are_of_the_time_and_unique(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    name = store.new_name()
    while name != store.new_name():  # the minute changed meanwhile
        name = store.new_name()
    assert abs(time.mktime(time.strptime(name, "%Y-%m-%d-%H%M")) - time.time()) < 90
    monkeypatch.setattr(Store, "_path", lambda self, name: self.folder / "x" if name.count("-") < 4 else Path("/no"))
    store.folder.mkdir(parents=True)
    (store.folder / "x").touch()
    assert store.new_name().endswith("-2")


def test_a_new_name_is_none_that_is_only_open(store: Store) -> None:
    first = store.new_name()
    with store.lock(first):
        assert store.new_name() != first


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="no such locks on Windows")


@needs_locks
def test_a_session_is_open_once(store: Store) -> None:
    store.save(session("a"))
    process = start("with store.lock('a'): print('held', flush=True); sys.stdin.readline()\n", store)
    assert process.stdout is not None
    process.stdout.readline()
    for action in (lambda: store.lock("a").__enter__(), lambda: store.rename("a", "b"), lambda: store.delete("a")):
        with pytest.raises(StellarError, match="the session a is open elsewhere") as caught:
            action()
        assert caught.value.hint
    store.save(session("c"))
    with pytest.raises(UsageError, match="a session a already"):
        store.rename("c", "a")
    assert store.load("a").turns  # reading is no matter
    process.kill()
    process.wait()
    with store.lock("a"):
        store.delete("a")
    assert not list(store.folder.glob(".a*"))


@needs_locks
def test_a_damaged_session_that_is_open_elsewhere_stays(store: Store) -> None:
    store.save(session("a"))
    process = start("with store.lock('a'): print('held', flush=True); sys.stdin.readline()\n", store)
    assert process.stdout is not None
    process.stdout.readline()
    (store.folder / "a.json").write_text("?")
    with pytest.raises(StellarError, match="could not be set aside: .* open elsewhere"):
        store.load("a")
    assert (store.folder / "a.json").read_text() == "?"
    process.kill()
    process.wait()


@needs_locks
def test_what_this_process_has_open_it_may_rename_and_delete(store: Store) -> None:
    store.save(session("a"))
    with store.lock("a"):
        store.rename("a", "b")
        assert elsewhere("a", store) == "free"
        assert elsewhere("b", store) == "held"
        with pytest.raises(StellarError, match="open elsewhere"), store.lock("b"):
            pass
        store.delete("b")
    assert list(store.folder.iterdir()) == []


@needs_locks
def test_a_failed_rename_keeps_the_lock(store: Store) -> None:
    store.save(session("a"))
    store.save(session("b"))
    with store.lock("a"):
        with pytest.raises(UsageError, match="already"):
            store.rename("a", "b")
        assert elsewhere("a", store) == "held"
        with store.lock("b"):
            pass


def test_messages_are_in_the_chat_s_language(tmp_path: Path) -> None:
    store = Store(tmp_path, Texts("zh"))
    (tmp_path / "坏.json").write_text("[")
    with pytest.raises(StellarError, match="会话 坏 已损坏：内容不是完整的 JSON；原文件已另存为 .*坏.json.damaged"):
        store.load("坏")
    with pytest.raises(UsageError, match="会话不能叫"):
        store.load("a/b")


def test_where_sessions_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_DATA", str(tmp_path))
    assert sessions_folder() == tmp_path / "sessions"
    monkeypatch.delenv("STELLAR_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    folder = sessions_folder()
    assert folder.parts[-2:] == ("stellar-local", "sessions")
    assert sys.platform != "linux" or folder.parent.parent == tmp_path / "xdg"


def test_stored_times(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(time, "tzset"):
        monkeypatch.setenv("TZ", "CST-8")
        time.tzset()
        assert local_time("2026-11-24T16:32:59.999+00:00") == "2026-11-25 00:32"
        monkeypatch.undo()
        time.tzset()
    assert local_time("0001-01-01T00:00:00.000+23:00").startswith("0001-01-01")
    assert abs(seconds(now()) - time.time()) < 1
    assert seconds("1970-01-01T08:00:01.500+08:00") == 1.5
