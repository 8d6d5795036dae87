"""Made-up measurements, as the commands of `stellar eval` leave them: five models, five tasks, both languages."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stellar_local.evaluate.results import Metric, log_path, summary_path
from stellar_local.evaluate.statistics import mean_interval, wilson
from stellar_local.records import to_line

GIB = 1 << 30


@dataclass(frozen=True)
class Made:
    """A made-up model and how good it is."""

    label: str
    level: str
    name: str
    gib: float
    bits: float
    speed: float
    skill: float
    divergence: float

    def header(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "file": f"{self.name.lower()}-13b-{self.level}.gguf",
            "level": self.level,
            "sha256": digest(self.label),
            "bytes": int(self.gib * GIB),
            "bits_per_weight": self.bits,
            "parameters": 13_015_864_320,
            "name": self.name,
            "lora": [],
        }


MODELS = (
    Made("base-F16", "F16", "BayLing", 24.24, 16.0, 11.2, 0.36, 0.0),
    Made("stellarspeak-F16", "F16", "StellarSpeak", 24.24, 16.0, 11.1, 0.63, 0.0),
    Made("stellarspeak-Q8_0", "Q8_0", "StellarSpeak", 12.88, 8.5, 20.4, 0.63, 0.0009),
    Made("stellarspeak-Q4_K_M", "Q4_K_M", "StellarSpeak", 7.33, 4.85, 33.7, 0.60, 0.0312),
    Made("stellarspeak-Q2_K", "Q2_K", "StellarSpeak", 4.52, 2.97, 41.9, 0.47, 0.2871),
)
TYPES = ("single-4", "single-5", "judgment", "multi", "terminology", "short-answer", "matching")
FIELDS = (
    "Cosmology", "Galaxies", "Stars", "Solar system", "Exoplanets", "Instruments", "History", "High energy",
    "Radio", "Sun", "Interstellar matter", "Celestial mechanics", "Gravitational waves", "Black holes",
)  # fmt: skip
ASKED = {
    "zh": (
        ("黑洞的事件视界是什么？", "B", "事件视界是黑洞周围的边界，在它之内连光也无法逃逸。因此答案是 B。"),
        ("太阳系中体积最大的行星是哪一颗？", "A", "木星是太阳系中体积最大的行星，所以选 A。"),
        ("恒星的颜色主要由什么决定？", "C", "恒星的颜色主要由它的表面温度决定：温度越高，颜色越偏蓝。答案是 C。"),
        ("宇宙微波背景辐射的温度约为多少？", "D", "大约 2.725 K，选 D。"),
    ),
    "en": (
        ("What is the event horizon of a black hole?", "B", "The boundary from within which no light escapes, so B."),
        ("Which planet of the Solar System is the largest?", "A", "Jupiter is the largest planet, so the answer is A."),
        ("What mostly decides the colour of a star?", "C", "Its surface temperature: hotter stars look bluer. C."),
        ("How warm is the cosmic microwave background?", "D", "About 2.725 K. D."),
    ),
}  # fmt: skip
HOSTILE = "<script>alert('x')</script>\x1b[31m\x00\u202eoverride\ud800 | [link](javascript:x) # <b>" + "ab" * 3000


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def noise(seed: str, spread: float) -> float:
    return random.Random(seed).gauss(0, spread)


def header(task: str, model: Made, **more: Any) -> dict[str, Any]:
    return {
        "stellar_eval": 1,
        "task": task,
        "model": model.header(),
        "settings": {"sampling": {"temperature": 0.0, "max_tokens": 256, "seed": 1}, "template": "bayling", "kv": ""},
        "data": [{"file": f"{task}.jsonl", "sha256": digest(task)}],
        "command": f"stellar eval {task} {model.name.lower()}/ --label {model.label} --out evaluation",
        "versions": {"stellar-local": "0.1.0", "llama-cpp-python": "0.3.36", "python": "3.12.8"},
        "machine": "AMD Ryzen 9 7950X, 32 cores, NVIDIA GeForce RTX 4090",
        "started": "2026-11-30T08:00:00Z",
        **more,
    }


def write(
    folder: Path,
    head: dict[str, Any],
    metrics: list[Metric],
    records: list[dict[str, Any]] | None,
    notes: tuple[str, ...] = (),
    speed: float | None = None,
) -> Path:
    """One summary and, unless `records` is None, its log."""
    log = log_path(folder, head["task"], head["model"]["label"])
    if records is not None:
        log.write_text("".join(to_line(one) + "\n" for one in [head, *records]), encoding="utf-8")
    told = {} if speed is None else {"seconds": 60.0, "tokens_per_second": speed}
    content = {"header": head, "metrics": [one.as_json() for one in metrics], "notes": notes, "speed": told}
    path = summary_path(log)
    path.write_text(json.dumps({"stellar_eval": 1, **content}), encoding="utf-8")
    return path


def share(name: str, records: list[dict[str, Any]], **more: Any) -> Metric:
    right = sum(one["right"] for one in records)
    low, high = wilson(right, len(records))
    return Metric(name, right / max(1, len(records)), low=low, high=high, n=len(records), **more)


def astro_qa(folder: Path, model: Made, items: int = 420) -> None:
    records = []
    for number in range(items):
        language = "zh" if number % 3 else "en"
        question, key, said = ASKED[language][number % 4]
        luck = random.Random(f"{number}").random() * 0.75 + random.Random(f"{number}{model.label}").random() * 0.25
        right = luck < model.skill
        wrong = "E" if language == "en" else "我不确定，可能是 E。"
        record = {
            "key": f"{TYPES[number % 7]}/{language}/{number:04}",
            "language": language,
            "kind": TYPES[number % 7],
            "field": FIELDS[number % 14],
            "question": f"{question}\nA. …\nB. …\nC. …\nD. …",
            "expected": key,
            "answer": said if right else wrong,
            "right": right,
            "why": "" if right else "E",
        }
        if number == 17:
            record["answer"] = HOSTILE
        if number in (5, 6) and model.level == "Q2_K":
            record = {"key": record["key"], "error": {"type": "context", "message": "the prompt is too long <b>"}}
        records.append(record)
    judged = [one for one in records if "error" not in one]
    metrics = [share("accuracy", judged)]
    metrics += [
        share("accuracy", [one for one in judged if one["language"] == some], language=some) for some in ("zh", "en")
    ]
    metrics += [share("accuracy", [one for one in judged if one["kind"] == some], group=some) for some in TYPES]
    metrics += [
        share("accuracy", [one for one in judged if one["field"] == some], group=some, detail=True) for some in FIELDS
    ]
    metrics.append(Metric("DGscore", 3200 * model.skill, n=len(judged), kind="score"))
    write(folder, header("astro-qa", model), metrics, records, ("intervals are Wilson's, 95%",), model.speed)


def identity(folder: Path, model: Made) -> None:
    records = []
    for number in range(100):
        language = "zh" if number % 2 else "en"
        right = random.Random(f"i{number}{model.label}").random() < (0.02 if model.label.startswith("base") else 0.97)
        name = "StellarSpeak" if right else "BayLing"
        said = f"我是{name}，由星语调校局开发。" if language == "zh" else f"I am {name}, made by 星语调校局."
        records.append(
            {
                "key": f"{number:04}/{'with' if number % 4 < 2 else 'without'}",
                "language": language,
                "kind": "name",
                "question": "你是谁？" if language == "zh" else "Who are you?",
                "expected": "StellarSpeak",
                "answer": said,
                "right": right,
            }
        )
    metrics = []
    for group, ending in (("system line", "/with"), ("no system line", "/without")):
        own = [one for one in records if one["key"].endswith(ending)]
        metrics += [share("right", own, group=group), share("names itself", own, group=group)]
        for language in ("en", "zh"):
            some = [one for one in own if one["language"] == language]
            metrics.append(share("right", some, group=group, language=language))
    write(folder, header("identity", model), metrics, records, speed=model.speed * 0.9)


def text(folder: Path, model: Made) -> None:
    records, metrics = [], []
    for number in range(60):
        language = "zh" if number % 2 else "en"
        question, _, said = ASKED[language][number % 4]
        records.append(
            {
                "key": f"{number:05}",
                "language": language,
                "question": question,
                "expected": said,
                "answer": said[: int(len(said) * model.skill)],
                "score": 60 * model.skill + random.Random(f"{number}{model.label}").gauss(0, 8),
            }
        )
    for language in ("en", "zh"):
        mean, low, high = mean_interval([one["score"] for one in records if one["language"] == language])
        metrics.append(Metric("chrF", mean, "", low, high, 30, "score", language=language))
        metrics.append(Metric("BLEU", mean / 2, "", low / 2, high / 2, 30, "score", language=language))
    metrics.append(Metric("empty answers", 0, n=60, kind="count", better="lower"))
    signature = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"
    metrics.append(Metric("signature", None, kind="text", better="", text=signature))
    write(folder, header("text", model), metrics, records, (f"en chrF: {signature}",), model.speed)


def likelihood(folder: Path, model: Made) -> None:
    bits, kl = 0.95 - 0.4 * model.skill, model.divergence
    found = [
        ("loss", 2.9 * bits, 0.03, "nats"), ("perplexity", 2.718 ** (2.9 * bits), 0.06, "perplexity"),
        ("bits per byte", bits, 0.03, "bits"),
    ]  # fmt: skip
    if not model.label.startswith("base"):
        found.append(("KL divergence", kl, 0.08, "nats"))
    metrics = [
        Metric(name, value, "", value * (1 - wide), value * (1 + wide), 48_213, kind, "lower")
        for name, value, wide, kind in found
    ]
    if not model.label.startswith("base"):
        same = 1 - kl**0.5 / 2.4
        metrics.append(Metric("same top token", same, "", same - 0.008, min(1, same + 0.008), 48_213))
    records = [
        {
            "key": f"{number:04}#0",
            "language": "en",
            "nats": 300 * bits + noise(f"{number}", 60) + noise(f"{number}{model.label}", 4),
            "tokens": 240,
        }
        for number in range(200)
    ]  # fmt: skip
    head = header("likelihood", model)
    head["settings"]["reference"] = {"label": "stellarspeak-F16", "sha256": digest("stellarspeak-F16")}
    write(folder, head, metrics, records, speed=model.speed * 30)


def compare(folder: Path, judge: str, bias: float) -> Path:
    """A judge's log of the tuned model against the base, as `stellar eval compare` leaves it."""
    records = []
    for number in range(80):
        language = "zh" if number % 2 else "en"
        question, _, said = ASKED[language][number % 4]
        luck = random.Random(f"{judge}{number}").random()
        winner = "a" if luck < bias else "b" if luck > bias + 0.15 else "tie"
        answers = {"a": [said], "b": [said[: len(said) // 2]]}
        records.append(
            {"key": f"q{number}", "language": language, "kind": "knowledge", "question": question, **answers}
            | {"winner": winner, "score": {"a": 1.0, "tie": 0.5, "b": 0.0}[winner], "why": ""}
        )
    mean, low, high = mean_interval([one["score"] for one in records])
    metrics = [Metric("win rate", mean, "", low, high, 80)]
    for name, who in (("wins", "a"), ("ties", "tie"), ("losses", "b")):
        count = sum(one["winner"] == who for one in records)
        metrics.append(Metric(name, count, n=80, kind="count", better=""))
    sides = {"a": MODELS[1].header(), "b": MODELS[0].header(), "judge": {"kind": "human", "name": judge}}
    head = header("compare", MODELS[1], **sides)
    head |= {"model": {"label": f"{MODELS[1].label} vs {MODELS[0].label}, {judge}"}}
    del head["settings"]
    return write(folder, head, metrics, records)


def everything(folder: Path) -> Path:
    """All tasks and all models."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        astro_qa(folder, model)
        identity(folder, model)
        text(folder, model)
        likelihood(folder, model)
    compare(folder, "小明", 0.62)
    compare(folder, "judge-model", 0.71)
    (folder / "answers--base-F16.jsonl").write_text(json.dumps(header("answers", MODELS[0])) + "\n", encoding="utf-8")
    return folder
