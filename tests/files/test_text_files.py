"""Text of other people's files: UTF-8 is read, everything else is named in one line."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from astromodal.errors import DataError
from astromodal.files.text_files import decoded, read_text, refuse_other_kinds

TEXT = "field,name\nA,Grün\n"


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.csv", TEXT)
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"))
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_read_with_and_without_a_mark(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.csv", "a CSV file") == TEXT


OTHER = {
    "UTF-16": TEXT.encode("utf-16"),
    "utf-16-be": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    ".zip": zipped(),
    ".tar": tarred(),
    "gzip": gzip.compress(TEXT.encode()),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "Parquet": b"PAR1\x15\x00",
    "FITS": b"SIMPLE  =                    T",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "binary": b"a\x00\x01\x02bc",
}


@pytest.mark.parametrize("kind", OTHER)
def test_other_kinds_are_named_and_the_repair_is_said(tmp_path, kind):
    path = tmp_path / "a.csv"
    path.write_bytes(OTHER[kind])
    with pytest.raises(DataError) as caught:
        read_text(path, "a CSV file with zero points")
    said = str(caught.value)
    assert "\n" not in said and str(path) in said and "to repair" in said
    assert (kind.split()[0] if kind != "utf-16-be" else "UTF-16") in said


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437"])
def test_another_code_page_is_named_with_its_line_and_word(encoding):
    said = r"a CSV file in UTF-8, got another encoding \(byte 0x\w\w, as in .*x.csv, line 2"
    with pytest.raises(DataError, match=said) as e:
        decoded(TEXT.encode(encoding), "a CSV file", "x.csv")
    assert encoding == "cp437" or "'Grün'" in str(e.value)


def test_missing_and_endless_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="got no such file"):
        read_text(tmp_path / "none", "a CSV file")
    with pytest.raises(DataError, match="Is a directory"):
        read_text(tmp_path, "a CSV file")
    (tmp_path / "long").write_text("a" * (1 << 20 | 1))
    with pytest.raises(DataError, match="at most 1 MiB"):
        read_text(tmp_path / "long", "a CSV file", max_bytes=1 << 20)


def test_plain_text_is_no_other_kind():
    refuse_other_kinds(TEXT.encode(), "text", "x")
    refuse_other_kinds(b"", "text", "x")
