"""A loaded model and its vocabulary: tokenizing, special tokens, metadata. Knows nothing of contexts or prompts.

How a model is divided between several GPUs is tried with fake ones only.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ModelError, ShortMemoryError, StellarError
from .devices import check_shares, gpus
from .header import Header, check_runnable, check_vocabulary, read_header
from .library import api, complaints, deferred_interrupt, recorded, speaks_of_memory
from .mapped import let_go

_CONTROL = 1 << 3  # LLAMA_TOKEN_ATTR_CONTROL
_REPACKED = "_REPACK model buffer size"  # in the log where weights were copied into another order
ALL_LAYERS = 1 << 20  # more layers than any model has: offload everything


def _unlocked(lines: Sequence[str], size: int) -> str:
    """What to tell if llama.cpp's warnings say that it could not lock a model of `size` bytes; "" if they do not.

    It goes on then, with a model that may be swapped out.
    """
    reasons = [line for line in lines if re.search(r"failed to (mlock|VirtualLock)|mlock not supported", line)]
    if not reasons:
        return ""
    needed = f"{size / (1 << 20):,.0f} MiB"
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    except (ImportError, AttributeError, OSError):  # Windows
        limit = -1
    if 0 <= limit < size:  # -1: no limit
        allowed = f"{limit / (1 << 20):,.0f} MiB (`ulimit -l`, in KiB)"
        return (
            f"--mlock cannot lock the model's {needed}: this process may lock {allowed}; raise memlock in "
            "/etc/security/limits.conf, or start the container with --ulimit memlock=-1"
        )
    return f"--mlock cannot lock all of the model's {needed}: {reasons[0].removeprefix('warning: ')}"


class Model:
    """A model in memory. Close it, or use it as a context manager; contexts made of it must be closed first.

    `gpu_layers` counts the layers to offload, from the last; it has no effect in a build without a GPU backend.
    `tensor_split` gives each GPU's share of these, in the order of `gpus()`, by any measure; () leaves it to their free
    memory. With `mmap` "on" the file is mapped into memory, with "off" it is read, "auto" is as the devices have it;
    `mlock` keeps it in main memory, what of it is there. `notes` says what of this could not be done. With `no_alloc`
    no weight is read and nothing can be computed: a context of it says in llama.cpp's log how much memory it would
    take, and a file that is only a header, made as long as the whole, will do.
    Raises ModelError if the file is missing, no GGUF, truncated, or refused by llama.cpp, ShortMemoryError if that is
    for want of memory, UsageError for a split that does not match the GPUs.
    """

    def __init__(
        self,
        path: Path,
        gpu_layers: int = ALL_LAYERS,
        vocab_only: bool = False,
        no_alloc: bool = False,
        mmap: str = "auto",
        mlock: bool = False,
        tensor_split: Sequence[float] = (),
    ) -> None:
        self.path, self.gpu_layers, self.tensor_split = path, gpu_layers, tuple(tensor_split)
        self.notes: list[str] = []
        self.contexts = 0  # that are open
        self.header: Header = read_header(path, whole=True)
        if not vocab_only:
            check_runnable(self.header)
        if not no_alloc:
            check_vocabulary(self.header)
        self._api = api()
        params = self._api.llama_model_default_params()
        params.n_gpu_layers, params.vocab_only = gpu_layers, vocab_only
        params.load_mode = self._load_mode(mmap, mlock)
        if no_alloc:
            params.no_alloc, params.load_mode = True, self._api.LLAMA_LOAD_MODE_NONE
        self._used = self._devices(gpu_layers, tensor_split)  # kept alive: llama.cpp holds the addresses
        if self._used:
            params.devices = ctypes.cast(self._used[0], ctypes.c_void_p)
            if self._used[1] is not None:
                params.tensor_split = self._used[1]
        complaints()
        self.handle: Any = None
        try:
            with deferred_interrupt() as interruption:
                progress = self._api.llama_progress_callback(lambda _share, _data: not interruption.asked)
                params.progress_callback = progress
                with recorded() as log:
                    self.handle = self._api.llama_model_load_from_file(os.fsencode(path), params)
        except KeyboardInterrupt:
            self.close()
            raise
        if not self.handle:
            reason = complaints()
            raise (ShortMemoryError if speaks_of_memory(reason) else ModelError)(
                f"llama.cpp cannot load {path}: {reason or 'no reason given'}",
                "run with -v to see its whole log; a larger model than memory needs a lower level",
            )
        if mlock and (note := _unlocked("".join(log).splitlines(), self.header.file_size)):
            self.notes.append(note)
        elif _REPACKED in "".join(log):
            rows = [tensor for tensor in self.header.tensors if len(tensor.shape) == 1]
            let_go(path, [(self.header.data_start + row.offset, row.nbytes) for row in rows])
        self.vocab: Any = self._api.llama_model_get_vocab(self.handle)
        if not vocab_only and (
            not self._api.llama_model_has_decoder(self.handle)
            or self._api.llama_model_has_encoder(self.handle)
            or self._api.llama_model_is_recurrent(self.handle)
            or self._api.llama_model_is_hybrid(self.handle)
        ):
            self.close()
            raise ModelError(
                f"not a decoder-only transformer ({self.header.architecture}): {path}", "use a LLaMA model"
            )
        self.n_vocab: int = self._api.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train: int = self._api.llama_model_n_ctx_train(self.handle)
        self.size: int = self._api.llama_model_size(self.handle)
        self.add_bos: bool = self._api.llama_vocab_get_add_bos(self.vocab)
        self.bos: int | None = self._token_or_none(self._api.llama_vocab_bos(self.vocab))
        self.eos: int | None = self._token_or_none(self._api.llama_vocab_eos(self.vocab))
        self._pieces: dict[int, bytes] = {}
        self._specials: dict[str, int | None] = {}
        self._ends: dict[int, bool] = {}

    def _load_mode(self, mmap: str, mlock: bool) -> int:
        llama = self._api
        if not mlock:
            modes = {"auto": llama.LLAMA_LOAD_MODE_AUTO, "on": llama.LLAMA_LOAD_MODE_MMAP}
            return int(modes.get(mmap, llama.LLAMA_LOAD_MODE_NONE))
        # llama.cpp has no "auto" that locks: it maps no file for GPUs that live on the main memory.
        mapped = mmap == "on" or (mmap == "auto" and not any(device.integrated for device in gpus()))
        return int(llama.LLAMA_LOAD_MODE_MMAP_MLOCK if mapped else llama.LLAMA_LOAD_MODE_MLOCK)

    def _devices(self, gpu_layers: int, tensor_split: Sequence[float]) -> tuple[Any, Any] | None:
        """The GPUs to use and their shares, as llama.cpp takes them; None leaves both to it.

        A GPU that gets nothing is left out: llama.cpp would take memory there, and compute large batches, all the same.
        The list ends with a null; of shares, llama.cpp reads as many as there can be devices, whatever there are.
        """
        if not gpu_layers:
            return (ctypes.c_void_p * 1)(), None
        if not tensor_split:
            return None
        devices = gpus()
        check_shares(tensor_split, devices)
        used = [(one.handle, share) for one, share in zip(devices, tensor_split, strict=True) if share]
        room = max(self._api.llama_max_devices(), len(devices))
        handles, shares = zip(*used, strict=True)
        return (ctypes.c_void_p * (len(used) + 1))(*handles), (ctypes.c_float * room)(*shares)

    def _token_or_none(self, token: int) -> int | None:
        return token if 0 <= token < self.n_vocab else None  # LLAMA_TOKEN_NULL is -1

    def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        """Text → token ids, without BOS. Special tokens' texts stay text unless `parse_special`.

        Lone surrogates, which no UTF-8 holds, become U+FFFD.
        """
        data = text.encode("utf-8", "replace")
        room = len(data) + 8  # a token covers at least one byte, but for SentencePiece's leading space
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = self._api.llama_tokenize(self.vocab, data, len(data), buffer, room, False, parse_special)
            if count >= 0:
                return buffer[:count]
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes that `token` stands for in text; a special token stands for none."""
        found = self._pieces.get(token)
        if found is None:
            self._require(token)
            room = 64
            while True:
                buffer = ctypes.create_string_buffer(room)
                count = self._api.llama_token_to_piece(self.vocab, token, buffer, room, 0, False)
                if count >= 0:
                    break
                room = -count
            found = self._pieces[token] = buffer.raw[:count]
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.piece(token) for token in tokens).decode("utf-8", "replace")

    def special(self, text: str) -> int | None:
        """The id of the special token with this text; None where the vocabulary has none."""
        if text not in self._specials:  # the names that a template uses, again for each prompt
            ids = self.tokenize(text, parse_special=True)
            self._specials[text] = ids[0] if len(ids) == 1 and self.is_special(ids[0]) else None
        return self._specials[text]

    def is_special(self, token: int) -> bool:
        """Whether a token is a control token or ends generation, so that it has no text of its own."""
        self._require(token)
        return bool(self._api.llama_vocab_is_control(self.vocab, token) or self.is_eog(token))

    def is_eog(self, token: int) -> bool:
        """Whether a token ends generation (EOS, EOT and their kin)."""
        found = self._ends.get(token)  # asked for each token that is generated
        if found is None:
            found = self._ends[token] = bool(self._api.llama_vocab_is_eog(self.vocab, token))
        return found

    def token_text(self, token: int | None) -> str:
        """A token's text as the vocabulary writes it (`</s>`); "" for None."""
        if token is None:
            return ""
        self._require(token)
        return str((self._api.llama_vocab_get_text(self.vocab, token) or b"").decode("utf-8", "replace"))

    def special_texts(self) -> list[str]:
        """The texts of all control tokens. Reads the whole vocabulary: some 50 ms for 128,000 tokens."""
        attribute, vocab = self._api.llama_vocab_get_attr, self.vocab
        return [self.token_text(token) for token in range(self.n_vocab) if attribute(vocab, token) & _CONTROL]

    def _require(self, token: int) -> None:
        if not 0 <= token < self.n_vocab:  # llama.cpp asserts on it
            raise ModelError(f"token {token} is outside the vocabulary of {self.n_vocab}")

    def close(self) -> None:
        """Free the model's memory; safe to call twice. Raises StellarError while a context uses it."""
        if self.contexts:  # llama.cpp would go on with memory that is gone
            raise StellarError("a context still uses the model", "close the engine or the context first")
        if self.handle:
            self._api.llama_model_free(self.handle)
            self.handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
