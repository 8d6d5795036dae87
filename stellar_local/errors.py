"""The errors a user may see, each with a hint and the exit code it ends the program with.

Knows nothing of terminals or of llama.cpp. Everything that goes wrong because of input, files, memory or a
missing package is raised as a StellarError; any other exception is a defect of ours.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns: the contract that scripts rely on."""

    DONE = 0
    FAILED = 1  # the work failed, or some of its items did
    USAGE = 2  # the command line is wrong
    MISSING_EXTRA = 3  # an optional part of the installation is needed
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, what shells use
    TERMINATED = 143  # SIGTERM, where the work in hand was finished first


class StellarError(Exception):
    """A failure worth one clear sentence: `message` says what is wrong, `hint` what to do next."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(StellarError):
    """The command line, a configuration file or a template asks for something that does not exist."""

    exit_code = ExitCode.USAGE


class ModelError(StellarError):
    """A model, a checkpoint or an adapter is missing, damaged, of the wrong kind, or does not fit."""


class ShortMemoryError(ModelError):
    """A model or a context does not fit in the memory that is free; with less of something it might."""


class RequestError(StellarError):
    """One request cannot be run (malformed, too long for the context); others may go on.

    `kind` is the machine-readable name that batch output carries in `error.type`.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


class MissingExtraError(StellarError):
    """An optional dependency is not installed; the hint is the exact command that installs it."""

    exit_code = ExitCode.MISSING_EXTRA

    def __init__(self, extra: str, package: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            f"pip install 'stellar-local[{extra}]'",
        )
        self.extra = extra
