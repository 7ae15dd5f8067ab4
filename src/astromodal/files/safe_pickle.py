"""Reads joblib files without ever calling anything that they name.

A joblib file is a pickle in which every array is a small wrapper object followed, inline, by its raw bytes. Here each
global that such a file needs is answered by a harmless stand-in of our own, every other global, and every opcode
that could call or patch an object, is refused (docs.python.org: "pickle", restricting globals). Only plain arrays
(bool, integer, float, complex, fixed-width text), numbers, text, bytes and the builtin containers can come out.
What comes out is bounded by the size of the file, see :mod:`.bounded`.
"""

from __future__ import annotations

import io
import pickle
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Protocol

import numpy as np

from ..errors import ArtifactError, ArtifactMissingError, UnsafeFileError
from .atomic import read_error
from .bounded import BoundedFile, allowed_bytes, check_shape, inside, walk

_DTYPE = re.compile(r"[biufcSU]\d{1,6}")
_CHUNK = 1 << 24  # bytes read at once: a false shape costs no memory before the file proves to be that long


class Refused(Exception):
    """Something that a plain array file does not contain."""


class _Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...


class _Ndarray:
    """Stands for the class ``numpy.ndarray``; never made, only compared with."""


class _Dtype:
    """Stands for ``numpy.dtype`` while its state arrives in two steps."""

    def __init__(self, spec: object = None, align: object = False, copy: object = True) -> None:
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            raise Refused(f"dtype {spec!r}")
        self.spec = spec
        self.byte_order: Literal["<", ">", "|", "="] = "="

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise Refused("a structured dtype")
        if state[1] not in ("<", ">", "|", "="):
            raise Refused("a dtype with an unknown byte order")
        self.byte_order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self.spec).newbyteorder(self.byte_order if self.byte_order != "|" else "=")


class _ArrayWrapper:
    """Stands for joblib's ``NumpyArrayWrapper``; :meth:`read` takes the raw bytes that follow it."""

    def set_state(self, state: object) -> None:
        if not isinstance(state, dict):
            raise Refused("an array without a description")
        if state.get("subclass") is not _Ndarray:
            raise Refused("a subclass of ndarray")
        dtype, shape = state.get("dtype"), state.get("shape")
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise Refused("an array without dtype and shape")
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
            raise ValueError("a shape of something else than non-negative integers")
        self.dtype, self.shape, self.order = dtype.numpy(), shape, state.get("order")
        self.alignment = state.get("numpy_array_alignment_bytes")

    def read(self, file: _Readable, n_bytes: int) -> np.ndarray:
        check_shape(self.shape, self.dtype.itemsize, allowed_bytes(n_bytes))
        if self.alignment is not None:
            _read_exactly(file, _read_exactly(file, 1)[0])
        count = 1
        for n in self.shape:
            count *= n
        raw = _read_exactly(file, count * self.dtype.itemsize)
        data = np.frombuffer(raw, dtype=self.dtype, count=count) if count else np.empty(0, self.dtype)
        array = data.reshape(self.shape[::-1]).T if self.order == "F" else data.reshape(self.shape)
        return array.astype(self.dtype.newbyteorder("="), copy=False)


def _read_exactly(file: _Readable, n_bytes: int) -> bytearray:
    out = bytearray()
    while len(out) < n_bytes:
        piece = file.read(min(_CHUNK, n_bytes - len(out)))
        if not piece:
            raise EOFError("the file ends inside an array")
        out += piece
    return out


def _scalar(dtype: object, data: object) -> Any:
    """Stands for ``numpy…multiarray.scalar``."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or len(data) != dtype.numpy().itemsize:
        raise Refused("a scalar that is not a number")
    return np.frombuffer(data, dtype=dtype.numpy())[0]


def _latin1(text: object, encoding: object) -> bytes:
    """Stands for ``_codecs.encode``, with which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("_codecs.encode")
    return text.encode("latin1")


_GLOBALS: dict[tuple[str, str], Any] = {
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _ArrayWrapper,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _latin1,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("__builtin__", "complex"): complex,
}
_CALLABLE = (_Dtype, _scalar, _latin1, set, frozenset, complex)


def _check_keys(keys: Iterable[Any]) -> None:
    """Keys and members of sets of which no file can make many with one hash (docs.python.org: object.__hash__)."""
    for key in keys:
        if not (isinstance(key, (str, bytes, bool)) or key is None or (type(key) is int and abs(key) < 1 << 31)):
            raise Refused(f"a key of type {type(key).__name__}, or a large one")


if TYPE_CHECKING:

    class _PythonUnpickler(pickle._Unpickler):
        """What typeshed leaves out of the Python unpickler: its stack, its memo, and opcodes that are changed here."""

        dispatch: ClassVar[dict[int, Callable[[Any], None]]]
        stack: list[Any]
        memo: dict[int, Any]
        read: Callable[[int], bytes]
        readline: Callable[[], bytes]
        append: Callable[[Any], None]
        _unframer: Any

        def load_setitem(self) -> None: ...
        def load_setitems(self) -> None: ...
        def load_dict(self) -> None: ...
        def load_additems(self) -> None: ...
        def load_frozenset(self) -> None: ...

else:
    _PythonUnpickler = pickle._Unpickler


class SafeUnpickler(_PythonUnpickler):  # the Python one: its opcodes can be replaced
    """Builtin containers and numbers; every other opcode with an effect is refused, what ``calls`` does not have too.

    Attributes:
        known: (module, name) → what stands for it.
        calls: those that may be called.
    """

    dispatch = _PythonUnpickler.dispatch.copy()
    known: Mapping[tuple[str, str], Any] = _GLOBALS
    calls: tuple[Any, ...] = _CALLABLE

    def __init__(self, file: IO[bytes], n_bytes: int) -> None:
        self._source = BoundedFile(file, allowed_bytes(n_bytes))
        self._n_bytes, self._copied = n_bytes, 0
        super().__init__(self._source)

    def find_class(self, module: str, name: str) -> Any:
        found = self.known.get((module, name))
        if found is None:
            raise Refused(f"{module}.{name}")
        return found

    def get_extension(self, code: int) -> None:
        raise Refused("an extension code")

    def persistent_load(self, pid: object) -> Any:
        raise Refused("a persistent id")

    def _instantiate(self, klass: object, args: object) -> None:
        raise Refused("an object")

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(args, tuple) or not any(function is known for known in self.calls):
            raise Refused("a call")
        self._copied += sum(len(arg) for arg in args if hasattr(arg, "__len__"))
        if self._copied > allowed_bytes(self._n_bytes):
            raise ValueError("one value that is copied too often")
        if function in (set, frozenset):
            _check_keys(item for arg in args for item in arg)
        self.append(function(*args))

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])  # those above the last mark
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        _check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _check_keys(self.stack)
        super().load_frozenset()

    def load_put(self) -> None:
        index = int(self.readline()[:-1])
        if not 0 <= index < 1 << 31:
            raise Refused("a large number of a memo")
        self.memo[index] = self.stack[-1]

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_newobj(self) -> None:
        args, klass = self.stack.pop(), self.stack.pop()
        if klass is not _ArrayWrapper or args != ():
            raise Refused("an object")
        self.append(_ArrayWrapper())

    def load_newobj_ex(self) -> None:
        raise Refused("an object")

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is _Dtype:
            target.set_state(state)
        elif type(target) is _ArrayWrapper:
            target.set_state(state)
            frame = self._unframer.current_frame
            if frame is not None and frame.read(1):
                raise EOFError("an array that begins inside a frame")
            self.stack[-1] = target.read(self._source, self._n_bytes)
        else:
            raise Refused("an object with a state")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.PUT[0]] = load_put
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


class _Inflate(io.RawIOBase):
    """A zlib or gzip stream as a readable file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zlib = zlib.decompressobj(wbits=47)  # 32 + 15: either header

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._zlib.eof:
            source = self._zlib.unconsumed_tail or self._file.read(1 << 16)
            piece = self._zlib.decompress(source, len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
            if not source:
                raise EOFError("the compressed stream ends early")
        return 0


_PLAIN = (np.ndarray, np.generic, int, float, complex, str, bytes, bytearray, dict, list, tuple, set, frozenset)


def _check_plain(value: Any, n_bytes: int) -> None:
    """Refuse stand-ins (a file may hold a bare ``numpy.dtype`` or class) and more values than the file has bytes."""
    for item in walk(value, n_bytes, inside):
        if item is not None and not isinstance(item, _PLAIN):
            raise Refused("a class")


def read_joblib(path: str | Path) -> Any:
    """Value of a joblib file: uncompressed, zlib or gzip.

    Raises:
        ArtifactMissingError: there is no such file.
        ArtifactError: the file is damaged, or compressed in another way.
        UnsafeFileError: it holds something else than plain arrays, numbers, text and builtin containers.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(2)
            file.seek(0)
            packed = magic == b"\x1f\x8b" or (
                magic[:1] == b"\x78" and len(magic) == 2 and magic[1] in (1, 94, 156, 218)
            )
            source: Any = io.BufferedReader(_Inflate(file), 1 << 16) if packed else file
            n_bytes = path.stat().st_size
            value = SafeUnpickler(source, n_bytes).load()
            source.read(1)  # to the end of a compressed stream, where its checksum is
            _check_plain(value, n_bytes)
            return value
    except FileNotFoundError as error:
        raise ArtifactMissingError("a joblib file", got="nothing", where=path) from error
    except OSError as error:
        raise read_error(error, path) from error
    except Refused as error:
        raise UnsafeFileError(
            "plain arrays, numbers and text", got=error, where=path, repair="write it again as arrays, without objects"
        ) from error
    except ArtifactError as error:
        raise ArtifactError.plain(f"{error} ({path})") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
        NotImplementedError,
    ) as error:
        raise ArtifactError(
            "a whole joblib file (uncompressed, zlib or gzip)",
            got=f"{type(error).__name__}: {error}",
            where=path,
            repair="make the file again",
        ) from error
