"""The documentation is current: cli.md equals --help, every command is shown, the READMEs' commands work."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import ROOT, Stellar
from doctor_cases import NVIDIA, around, loaded
from tiny import write_adapter

from stellar_local.cli import _MOUNTED
from stellar_local.cli import stellar as root_command
from stellar_local.config import RuntimeOptions
from stellar_local.doctor.examination import Examination, Order
from stellar_local.doctor.graphics import check_gpu
from stellar_local.plan.choose import PARALLEL
from stellar_local.runtime import DEFAULT_KV
from stellar_local.spec import specs
from stellar_local.texts import LANGUAGES, Texts
from train.budget import budget
from train.fit import Choice, Wish, choose, describe
from train.memory import CUDA_CONTEXT, GIB, Shape, estimate

READMES = ["README.md", "README.zh.md"]
GUIDES = ["docs/stellarspeak.md", "docs/stellarspeak.zh.md"]
BATCH = ["docs/batch.md", "docs/batch.zh.md"]
CHAT = ["docs/chat.md", "docs/chat.zh.md"]
TRAIN = ["docs/train.md", "docs/train.zh.md"]
PLAN = ["docs/plan.md", "docs/plan.zh.md"]
HARDWARE = ["docs/hardware.md", "docs/hardware.zh.md"]
PYTHON = ["docs/python.md", "docs/python.zh.md"]
DOCTOR = ["docs/doctor.md", "docs/doctor.zh.md"]
EVALUATE = ["docs/evaluate.md", "docs/evaluate.zh.md"]
STUDY = ["docs/study.md", "docs/study.zh.md"]


def fenced(page: str) -> list[str]:
    """The lines of a page's shell blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split("  #")[0].split()) for line in lines if line.strip() and not line.startswith("#")]


def test_made_pages_are_current() -> None:
    """Made in a fresh process: click keeps a command's help option from its first use, and other tests use some."""
    code = "import json, runpy, sys; json.dump(runpy.run_path(sys.argv[1])['pages'](), sys.stdout)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "docs" / "generate.py")], capture_output=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr.decode()
    pages = json.loads(done.stdout)
    assert set(pages) == {"cli.md", "chat.md", "chat.zh.md", "plan.md", "plan.zh.md"}
    for name, text in pages.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run: make docs"


@pytest.mark.parametrize("name", list(_MOUNTED))
def test_every_command_has_help_with_an_example(name: str, stellar: Stellar) -> None:
    done = stellar(name, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout or name == "data"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "pages",
    [READMES, GUIDES, BATCH, CHAT, PLAN, TRAIN, DOCTOR, HARDWARE, EVALUATE, STUDY],
    ids=["readme", "guide", "batch", "chat", "plan", "train", "doctor", "hardware", "evaluate", "study"],
)
def test_both_languages_show_the_same_commands(pages: list[str]) -> None:
    english, chinese = map(fenced, pages)
    assert english == chinese
    assert len(english) > 3


@pytest.mark.parametrize("page", READMES)
def test_readmes_open_with_the_two_commands(page: str) -> None:
    assert fenced(page)[:2] == ["make demo", "make test"]


def test_readme_make_targets_exist() -> None:
    for line in fenced("README.md"):
        if line.startswith("make "):
            done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("sound_machine")
def test_readme_commands_work(tmp_path: Path, spm_base: Path, spm_folder: Path) -> None:
    """All of the README's `stellar` commands, in order, with a tiny model in the places of the real ones."""
    shutil.copytree(spm_folder, tmp_path / "demo" / "model")
    shutil.copy(spm_folder / "tiny-F32.gguf", tmp_path / "model.gguf")
    run_all(fenced("README.md"), tmp_path)
    assert {path.name for path in (tmp_path / "model").glob("*.gguf")} == {"model-Q8_0.gguf", "model-Q4_K_M.gguf"}


def run_all(lines: list[str], folder: Path) -> None:
    """Run a page's `stellar` commands in a folder, as its reader would."""
    scripts = folder / "bin"
    scripts.mkdir(exist_ok=True)
    (scripts / "stellar").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stellar_local.cli "$@"\n')
    (scripts / "stellar").chmod(0o755)
    path = os.pathsep.join([str(scripts), str(Path(sys.executable).parent), os.environ["PATH"]])  # accelerate's too
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    for line in lines:
        if not line.startswith("make "):
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_guide_commands_work(tmp_path: Path, spm_base: Path) -> None:
    """The guide's commands, with a tiny base in the place of BayLing and an adapter of it in that of StellarSpeak's."""
    shutil.copytree(spm_base, tmp_path / "bayling-13b")
    write_adapter(tmp_path / "bayling-13b", tmp_path / "13BSS_model_tensors" / "v3")
    run_all(fenced(GUIDES[0]), tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"stellarspeak-13b", "stellarspeak-13b-half", "stellarspeak-13b-hf", "stellarspeak-lora.gguf"} <= made


def test_plan_guide_commands_work(tmp_path: Path, spm_folder: Path) -> None:
    shutil.copytree(spm_folder, tmp_path / "demo" / "model")
    run_all(fenced(PLAN[0]), tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["chat"]["plans"]


def tomls(page: str) -> dict[str, str]:
    """A page's TOML files; the first line of each is its name."""
    blocks = re.findall(r"```toml\n# (\S+)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


def values(text: str) -> dict[str, Any]:
    """What a TOML file says, whatever its comments."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return dict(tomllib.loads(text))


def test_both_train_guides_show_the_same_files() -> None:
    english, chinese = ({name: values(text) for name, text in tomls(page).items()} for page in TRAIN)
    assert english == chinese
    assert set(english) == {"mix.toml", "run.toml"}


def test_train_guide_commands_work(tmp_path: Path, spm_base: Path) -> None:
    """The guide's commands, with a tiny base in the places of BayLing and SmolLM2, and few rows instead of many."""
    shutil.copytree(spm_base, tmp_path / "bayling-13b")
    shutil.copytree(spm_base, tmp_path / "demo" / "base")
    write_training_data(tmp_path)
    for name, text in tomls(TRAIN[0]).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for line in fenced(TRAIN[0]):
        run_all([line], tmp_path)
        if line.startswith("stellar data identity"):
            rows = tmp_path / line.split("--out ")[1].split()[0]
            kept = rows.read_text(encoding="utf-8").splitlines(keepends=True)[::100]  # all would take minutes to train
            rows.write_text("".join(kept), encoding="utf-8")
    assert len(records(tmp_path / "astro-qa.jsonl")) == 4
    built = json.loads((tmp_path / "data" / "build.json").read_text(encoding="utf-8"))
    assert built["categories"].keys() == {"general", "domain", "identity"}
    kept = {path.name for path in (tmp_path / "adapter").iterdir()}
    adapter = {"adapter_model.safetensors", "adapter_config.json", "template.json"}
    assert {*adapter, "training.json", "log.csv", "tensorboard", "loss.png"} <= kept
    for name in ("adapter-r16", "adapter-again", "adapter-2", "v1", "small/adapter"):
        assert (tmp_path / name / "training.json").is_file()
    assert json.loads((tmp_path / "adapter-again" / "training.json").read_text())["config"]["lora_r"] == 16
    assert json.loads((tmp_path / "v1" / "training.json").read_text())["config"]["batch_size"] == 256


def write_training_data(folder: Path) -> None:
    """What the train guide's reader downloads: rows as Alpaca's, and sheets with the columns of Astro-QA's."""
    import openpyxl

    things = (
        "bread",
        "a bridge",
        "rain",
        "a poem",
        "chess",
        "soap",
        "a river",
        "tea",
        "a clock",
        "glass",
        "salt",
        "ink",
    )
    alpaca = [
        {"instruction": f"What is {thing} for?", "input": "", "output": f"People have long found uses for {thing}."}
        for thing in things
    ]
    (folder / "alpaca_data.json").write_text(json.dumps(alpaca), encoding="utf-8")
    sheets = folder / "Astro-QA" / "data" / "ZH"
    sheets.mkdir(parents=True)
    for name, rows in {
        "single": [
            ["ID", "Question", "A", "B", "C", "D", "Answer", "Parse"],
            [1, "天狼星位于哪个星座？", "猎户座", "大犬座", "小犬座", "天鹅座", "B", "天狼星是大犬座α星。"],
            [2, "离太阳最近的行星是哪一颗？", "水星", "金星", "地球", "火星", "A", "水星的轨道最靠近太阳。"],
        ],
        "judgment": [["ID", "Question", "Answer", "Parse"], [1, "月球本身会发光。", "错", "月球反射太阳光。"]],
        "subjective": [["ID", "Type", "Question", "Answer"], [1, "名词解释", "光年", "光在真空中一年走过的距离。"]],
        "matching": [["Title ID", "Group 1", "Group 2", "Answer"], [1, "织女星", "天琴座", None]],
    }.items():
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(sheets / f"{name}.xlsx")


def planned(name: str, gib: int) -> Choice:
    """What the memory plan chooses for a model on an empty card, in a computer with 16 GiB free."""
    shapes = {
        "7B": Shape(4096, 11008, 32, 32, 32, 128, 32000),
        "8B": Shape(4096, 14336, 32, 32, 8, 128, 128256),
        "13B": Shape(5120, 13824, 40, 40, 40, 128, 32000),
    }
    may = budget("auto", gib * GIB - CUDA_CONTEXT, "cuda")
    wish = Wish(8, ("q_proj", "k_proj", "v_proj", "o_proj"))
    return choose(shapes[name], wish, may, 512, "cuda", has_bnb=True, bf16_ok=True, host_bytes=16 * GIB)


@pytest.mark.parametrize("page", TRAIN)
def test_the_train_guides_plan_is_the_planners(page: str) -> None:
    """The plan that is shown, every cell of the table of cards, and the memory that is set against the makers'."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "\n".join(describe(planned("13B", 12))) in text
    words = {"nf4": "NF4", "bfloat16": "bfloat16"}
    for gib in (8, 12, 16, 24):
        (row,) = re.findall(rf"^\| {gib} GiB \|(.*)\|$", text, re.MULTILINE)
        cells = [re.sub(r"[¹²]", "", cell).strip() for cell in row.split("|")]
        made = [planned(name, gib) for name in ("7B", "8B", "13B")]
        assert [cell.replace("、", ", ") for cell in cells] == [
            f"{words[one.setup.dtype]}, {one.setup.tokens:,}, {one.estimate.device / GIB:.1f} GiB" for one in made
        ]
    moved = planned("13B", 8)
    assert moved.setup.offload
    assert moved.setup.embedding_on_cpu
    assert f"{moved.estimate.host / GIB:.1f} GiB" in text
    needed = replace(planned("7B", 24).setup, tokens=4096)
    assert f"{estimate(planned('7B', 24).shape, needed).device / GIB:.1f} GiB" in text
    ours = [f"{planned(name, 12).estimate.device / GIB:.1f} GiB" for name in ("13B", "7B")]
    assert re.search(rf"\| {ours[0]}.*13B.*{ours[1]}.*7B", text)


def test_chat_guide_commands_work(tmp_path: Path, spm_folder: Path) -> None:
    """The chat guide's commands, on the tiny model: sessions are gone on with, and a pipe's lines run."""
    shutil.copytree(spm_folder, tmp_path / "demo" / "model")
    run_all(fenced(CHAT[0]), tmp_path)
    sessions = Path(os.environ["STELLAR_DATA"]) / "sessions"
    (saved,) = sessions.glob("*.json")
    assert saved.name == "stars.json"
    assert len(json.loads(saved.read_text(encoding="utf-8"))["turns"]) == 2


@pytest.mark.usefixtures("sound_machine")
def test_doctor_guide_commands_work(tmp_path: Path, spm_folder: Path) -> None:
    shutil.copytree(spm_folder, tmp_path / "demo" / "model")
    run_all(fenced(DOCTOR[0]), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["healthy"]


@pytest.mark.parametrize(("page", "language"), [*zip(DOCTOR, LANGUAGES, strict=True)])
def test_the_doctor_guide_lists_each_check_and_shows_what_is_said(page: str, language: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)
    assert listed == [id for id, _ in Examination(Order()).checks()]
    finding = check_gpu(loaded(), around(NVIDIA), {})
    shown = " ".join(text.split())
    assert finding.said.text(Texts(language)) in shown
    # Another Python, and PyTorch may have brought the runtime.
    command = finding.fix.partition(" -m pip ")[2]
    for word in set(command.split()):
        assert word in shown, word


def test_evaluate_guide_commands_work(tmp_path: Path, spm_base: Path, spm_folder: Path) -> None:
    """The guide's commands, on tiny models, with rows and sheets made here in the places of real ones."""
    (tmp_path / "demo" / "model").mkdir(parents=True)
    for level, source in (("Q8_0", "Q8_0"), ("Q4_K_M", "F32")):
        shutil.copy(spm_folder / f"tiny-{source}.gguf", tmp_path / "demo" / "model" / f"stellarspeak-demo-{level}.gguf")
    shutil.copytree(spm_base, tmp_path / "demo" / "base")
    write_adapter(spm_base, tmp_path / "demo" / "adapter")
    write_training_data(tmp_path)
    for name, answer in (("zh", "恒星是自己发光的天体。"), ("en", "A star shines by its own light. ")):
        row = {"instruction": "?", "output": answer * 60}
        (tmp_path / f"train.{name}.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    run_all(fenced(EVALUATE[0]), tmp_path)
    made = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert {"report.html", "report.md"} <= made
    tasks = {name.partition("--")[0] for name in made if name.endswith(".json")}
    assert tasks >= {"likelihood", "identity", "text", "astro-qa"}
    assert (tmp_path / "demo" / "low" / "manifest.json").is_file()


def test_both_studies_have_the_same_figures() -> None:
    english, chinese = (re.findall(r"^\| .*\|$", (ROOT / page).read_text("utf-8"), re.MULTILINE) for page in STUDY)
    figures = [[row for row in rows if re.search(r"\d\.\d", row)] for rows in (english, chinese)]
    assert figures[0] == figures[1] and len(figures[0]) > 20


@pytest.mark.parametrize("line", fenced(STUDY[0]))
def test_the_study_s_commands_are_commands(line: str) -> None:
    """What its script ran and wrote down: every name and every option is known, every value of the right kind."""
    command, context = root_command, click.Context(root_command, info_name="stellar")
    arguments = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None, line
        command = found
    command.make_context(command.name, arguments, parent=context)


def test_hardware_guide_commands_work(tmp_path: Path, spm_folder: Path) -> None:
    shutil.copytree(spm_folder, tmp_path / "demo" / "model")
    run_all(fenced(HARDWARE[0]), tmp_path)


@pytest.mark.parametrize("page", HARDWARE)
def test_the_hardware_guide_s_defaults_are_the_options(page: str) -> None:
    """Each option of its first table is one, and what it says between backquotes or as a number is the default."""
    known = {f"--{name.replace('_', '-')}": item.default for name, (item, _) in specs(RuntimeOptions).items()}
    rows = dict(re.findall(r"^\| `(--[\w-]+)`.*? \| (.*?) \|", (ROOT / page).read_text("utf-8"), re.MULTILINE))
    assert rows.pop("--parallel").startswith(str(PARALLEL))
    assert rows["--kv"].startswith(f"`{DEFAULT_KV}`")
    assert set(rows) == set(known) - {"--ctx", "--template", "--lora", "--level"}
    stated = {name: text.strip("`") for name, text in rows.items() if known[name] not in (None, ())}
    assert stated == {name: str(known[name]) for name in stated} and len(stated) == 4


def test_both_hardware_guides_have_the_same_figures() -> None:
    tables = [re.findall(r"^\| .*\|$", (ROOT / page).read_text("utf-8"), re.MULTILINE) for page in HARDWARE]
    figures = [[re.findall(r"\d[\d,.]*", row) for row in table if not row.startswith("| `")] for table in tables]
    assert figures[0] == figures[1] and sum(map(len, figures[0])) > 60


def test_the_pictures_are_made_by_their_script(tmp_path: Path, spm_folder: Path) -> None:
    """A real chat in tmux, drawn; the READMEs show what it writes."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    script = [sys.executable, str(ROOT / "docs" / "screens.py"), str(spm_folder), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    for language, page, word in (("en", "README.md", "Who"), ("zh", "README.zh.md", "你是谁？")):
        picture = f"docs/chat-{language}.svg"
        assert picture in (ROOT / page).read_text(encoding="utf-8")
        for file in (tmp_path / f"chat-{language}.svg", ROOT / picture):
            text = file.read_text(encoding="utf-8")
            assert word in text
            assert "/help" in text


@pytest.fixture(scope="module")
def batch_guide(tmp_path_factory: pytest.TempPathFactory, spm_base: Path, spm_folder: Path) -> Path:
    """A folder in which the batch guide's commands were run, save those with jq, on tiny models in the demo's place."""
    folder = tmp_path_factory.mktemp("guide")
    shutil.copytree(spm_folder, folder / "demo" / "model")
    shutil.copytree(spm_base, folder / "demo" / "base")
    write_adapter(spm_base, folder / "demo" / "adapter")
    run_all([line for line in fenced(BATCH[0]) if "jq " not in line], folder)
    return folder


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_batch_guide_commands_work(batch_guide: Path) -> None:
    assert [record["id"] for record in records(batch_guide / "answers.jsonl")] == ["q1", "q2", "q3", "q4"]
    assert all("text" in record for record in records(batch_guide / "mixed-answers.jsonl"))
    documents = [json.loads(record["text"]) for record in records(batch_guide / "objects.jsonl")]
    assert len(documents) == 3
    assert all(document["kind"] in ("star", "planet", "galaxy") for document in documents)
    for number, indexes in ((1, [0, 2]), (2, [1, 3])):
        assert [record["index"] for record in records(batch_guide / f"part-{number}.jsonl")] == indexes


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_batch_guide_pipes_work(batch_guide: Path) -> None:
    merged = batch_guide / "all.jsonl"
    ran = 0
    for line in fenced(BATCH[0]):
        if "jq " in line:
            run_all([line], batch_guide)
            ran += 1
        if line.endswith(f"> {merged.name}"):
            assert [record["id"] for record in records(merged)] == ["q1", "q2", "q3", "q4"]
            merged.unlink()
    assert ran > 5


@pytest.mark.parametrize("page", BATCH)
def test_batch_guide_lists_every_kind_of_error(page: str) -> None:
    """Its table against the names in the source; "error" is what has no name of its own."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / page).read_text("utf-8").partition("`error.type`")[2], re.MULTILINE)
    others = {"chat", "render", "evaluate"}
    files = [path for path in (ROOT / "stellar_local").rglob("*.py") if others.isdisjoint(path.parts)]
    sources = "".join(path.read_text("utf-8") for path in files)
    kinds = set(re.findall(r'(?:RequestError\(\s*|kind = )"(\w{2,})"', sources))
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == {"error", *kinds}


def test_python_examples_work(tmp_path: Path, spm_model: Path) -> None:
    """The English page's programs, which are the Chinese page's as well."""
    english, chinese = (
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL) for page in PYTHON
    )
    assert english == chinese
    assert len(english) == 2
    shutil.copy(spm_model, tmp_path / "model.gguf")
    for program in english:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.strip()


@pytest.mark.parametrize(
    "page",
    [
        *READMES,
        *GUIDES,
        *BATCH,
        *CHAT,
        *TRAIN,
        *HARDWARE,
        *PYTHON,
        *DOCTOR,
        *EVALUATE,
        *STUDY,
        "CONTRIBUTING.md",
        "templates/README.md",
        "docs/cli.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_no_file_is_huge() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sizes = {name: (ROOT / name).stat().st_size for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert max(sizes.values()) < 1_000_000
    assert Path("LICENSE").name in sizes
