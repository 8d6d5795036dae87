"""The text of a CSV or TSV file: its encoding, and the sign between its fields. Knows neither rows nor columns."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from stellar_local.errors import StellarError
from stellar_local.files import explain, require_file

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DELIMITERS = (",", "\t", ";")
_COMMON = 0.8  # of the characters of Chinese text at least so many are in GB 2312, of misread text hardly any


def decoded(path: Path) -> tuple[str, str]:
    """The text and its encoding: what the byte-order mark says, else UTF-8, else what Chinese Excel writes.

    Raises StellarError for a file that cannot be read or is no text.
    """
    require_file(path, "table")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise explain(error, path, "read") from error
    named = next((encoding for bom, encoding in _BOMS if data.startswith(bom)), None)
    try:
        return data.decode(named or "utf-8"), named or "utf-8"
    except UnicodeDecodeError as error:
        place = f"byte {error.start}"
    if named is None:
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            text = ""
        # Bytes of Western text often pass for GB 18030, but never for the common characters of GB 2312.
        foreign = "".join(char for char in text if ord(char) > 127)
        if foreign and len(foreign.encode("gb2312", "ignore")) >= 2 * _COMMON * len(foreign):
            return text, "gb18030"
    raise StellarError(f"this is neither UTF-8 nor GB 18030 text: {path} ({place})", "save it as UTF-8")


def delimiter(text: str) -> str:
    """The sign that cuts the first line that is not empty into the most columns."""
    csv.field_size_limit(1 << 30)
    first = next((line for line in re.split("\r\n|\r|\n", text) if line.strip()), "")
    return max(_DELIMITERS, key=lambda sign: len(next(csv.reader([first], delimiter=sign))))
