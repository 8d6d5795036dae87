"""llama.cpp's own Python converter, as the archive of the installed llama-cpp-python carries it, to compare with.

No wheel holds it. It is looked for in the folder that LLAMA_CPP_SOURCE names, then in pytest's cache, and else fetched
once from the package index (an archive of 77 MB, checked against the index's SHA-256; 12 MB of it are kept).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

_KEPT = re.compile(
    r"[^/]+/vendor/llama\.cpp/(convert_\w+\.py|conversion/\w+\.py|gguf-py/gguf/[\w/]+\.py"
    r"|models/ggml-vocab-llama-(?:spm|bpe)\.gguf(?:\.inp|\.out)?)"
)
_DRIVER = """
import json, sys
from pathlib import Path
source = Path(sys.argv[1])
sys.path[:0] = [str(source / "gguf-py"), str(source)]
import convert_hf_to_gguf
from conversion.base import TextModel
own = TextModel.get_vocab_base_pre
for job in json.load(sys.stdin):
    TextModel.get_vocab_base_pre = (lambda self, tokenizer, name=job["pre"]: name) if job["pre"] else own
    sys.argv = ["convert_hf_to_gguf.py", job["folder"], "--outfile", job["out"], "--outtype", job["type"]]
    sys.argv += ["--model-name", job["name"]]
    convert_hf_to_gguf.main()
"""


def find(cache: Path) -> Path:
    """The folder that holds convert_hf_to_gguf.py; skips the test, saying why, where it cannot be had."""
    if stated := os.environ.get("LLAMA_CPP_SOURCE"):
        if not (Path(stated) / "convert_hf_to_gguf.py").is_file():
            pytest.fail(f"LLAMA_CPP_SOURCE={stated} holds no convert_hf_to_gguf.py")
        return Path(stated)
    version = importlib.metadata.version("llama_cpp_python")
    folder = cache / f"llama-cpp-python-{version}"
    if not folder.is_dir():
        try:
            url, digest = _archive(version)
            _fetch(url, digest, folder)
        except (OSError, LookupError, ValueError, tarfile.TarError) as error:
            pytest.skip(f"llama.cpp's converter is not at hand ({error}); set LLAMA_CPP_SOURCE to its folder")
    return folder


def convert(source: Path, home: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Run the converter on every job, in one process, without this project and without network.

    A job is {folder, out, type, name, pre}. The converter knows a byte-level tokenizer by a hash of what it makes of
    a fixed text, which no made-up tokenizer has: `pre`, where it is not None, stands in for that one look-up.
    """
    names = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(source)],
        input=json.dumps(list(jobs), default=str),
        text=True,
        encoding="utf-8",
        capture_output=True,
        cwd=home,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _archive(version: str) -> tuple[str, str]:
    """URL and SHA-256 of the source archive on the index that pip is configured for."""
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True
    )
    index = os.environ.get("PIP_INDEX_URL") or pip.stdout.strip() or "https://pypi.org/simple"
    page = f"{index.rstrip('/')}/llama-cpp-python/"
    with urllib.request.urlopen(page, timeout=20) as answer:
        text = answer.read().decode("utf-8")
    found = re.search(rf'href="([^"#]*llama_cpp_python-{re.escape(version)}\.tar\.gz)#sha256=([0-9a-f]{{64}})"', text)
    if not found:
        raise LookupError(f"{page} lists no source archive of {version}")
    return urllib.parse.urljoin(page, found[1]), found[2]


def _fetch(url: str, digest: str, folder: Path) -> None:
    """Download the archive, check it and keep what is needed, so that `folder` appears complete or not at all."""
    with tempfile.TemporaryFile() as archive, tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        seen = hashlib.sha256()
        with urllib.request.urlopen(url, timeout=20) as answer:
            while block := answer.read(1 << 20):
                seen.update(block)
                archive.write(block)
        if seen.hexdigest() != digest:
            raise ValueError(f"{url} is damaged")
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for member in tar:
                if (kept := _KEPT.fullmatch(member.name)) and member.isfile():
                    data = tar.extractfile(member)
                    assert data
                    path = Path(temporary) / "source" / kept[1]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data.read())
        (Path(temporary) / "source").rename(folder)
