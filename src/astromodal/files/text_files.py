"""Text from other people's files: UTF-8, with or without a byte order mark; anything else is named in one line.

A file in Windows' code page, in UTF-16 ("Unicode text" of spreadsheets), an archive or a Parquet file under a text
file's name: each is recognised by its bytes, and the message says what to do.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import DataError

_KINDS = {  # first bytes -> what it is, what to do
    b"PK\x03\x04": ("a .zip archive (or a spreadsheet)", "unpack it, or save the sheet as CSV in UTF-8"),
    b"\x1f\x8b": ("a gzip file", "unpack it, or give it the suffix .gz"),
    b"BZh": ("a bzip2 file", "unpack it"),
    b"\xfd7zXZ": ("an xz file", "unpack it"),
    b"(\xb5/\xfd": ("a zstd file", "unpack it"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"Rar!": ("a rar archive", "unpack it"),
    b"PAR1": ("a Parquet file", "write it as text"),
    b"SIMPLE  =": ("a FITS file", "write it as text"),
    b"\x89HDF": ("an HDF5 file", "write it as text"),
    b"\xd0\xcf\x11\xe0": ("an old Excel sheet", "save it as CSV in UTF-8"),
    b"%PDF": ("a PDF file", "give the table as text"),
    b"\xff\xfe": ("text in UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8"),
}
_HEAD = 1024  # bytes looked at


def refuse_other_kinds(head: bytes, kind: str, where: object) -> None:
    """Refuse a file by its first bytes if it is no text in UTF-8.

    Args:
        kind: what it should be, for the message.

    Raises:
        DataError: saying what it is.
    """
    head = head[:_HEAD]
    for magic, (found, repair) in _KINDS.items():
        if head.startswith(magic):
            raise DataError(kind, got=found, where=where, repair=repair)
    if head[257:262] == b"ustar":
        raise DataError(kind, got="a .tar archive", where=where, repair="unpack it")
    if b"\x00" in head:
        wide = len(head) > 3 and (not any(head[1:64:2]) or not any(head[0:64:2]))
        found = "text in UTF-16" if wide else "binary data"
        raise DataError(kind, got=found, where=where, repair="save it as text in UTF-8")


def decoded(data: bytes, kind: str, where: object) -> str:
    """Text of some bytes, without a byte order mark.

    Raises:
        DataError: they are not UTF-8; with the line and the byte.

    >>> decoded(b"\\xef\\xbb\\xbfa,b", "a CSV file", "x.csv")
    'a,b'
    """
    refuse_other_kinds(data, kind, where)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{kind} in UTF-8",
            got=_wrong_byte(data, error.start),
            where=f"{where}, line {line}",
            repair="save it as UTF-8",
        ) from error


def _wrong_byte(data: bytes, at: int) -> str:
    """What stands there, as a Windows code page has it."""
    before, after = data[max(at - 20, 0) : at], data[at : at + 20]
    word = re.split(rb"[\s,;|]", before)[-1] + re.split(rb"[\s,;|]", after, maxsplit=1)[0]
    return f"another encoding (byte 0x{data[at]:02x}, as in {word.decode('cp1252', 'replace')!r} in cp1252)"


def read_text(path: str | Path, kind: str, max_bytes: int = 1 << 26) -> str:
    """Text of a small file.

    Raises:
        DataError: there is none, it cannot be read, is larger than ``max_bytes``, or is no text in UTF-8.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise DataError(kind, got=got, where=path) from error
    if len(data) > max_bytes:
        raise DataError(f"{kind} of at most {max_bytes >> 20} MiB", got="more", where=path)
    return decoded(data, kind, path)
