"""What a file of weights claims to hold, compared with what it holds, before torch makes anything of it.

``torch.load(weights_only=True)`` calls nothing that a file names, but believes its numbers: a storage is as long as the
file says, and a tensor of 10^12 values over four bytes is made. Here the same pickle is read with stand-ins (see
:mod:`.safe_pickle`); every storage has to be as long as its part of the file and every tensor has to lie within its
storage. What torch itself writes of state dicts is known here, and nothing else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import ArtifactError, UnsafeFileError
from .bounded import inside, open_archive, walk
from .safe_pickle import Refused, SafeUnpickler, _latin1

_ITEMSIZE = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
    "ComplexDouble": 16,
    "ComplexFloat": 8,
}
_DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
_FEW = 1024  # values: a tensor may be as large although its storage is smaller (``expand``)


class _Type:
    """Stands for a dtype, or the storage of one."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize


class _Storage:
    """Stands for the values of a part of the file."""

    def __init__(self, itemsize: int, n_bytes: int) -> None:
        self.itemsize, self.n_bytes = itemsize, n_bytes


class _Tensor:
    """Stands for a tensor."""


class _Ordered(dict):
    """Stands for an ``OrderedDict``, which may have attributes (``_metadata`` of a state dict)."""

    attributes: dict[str, Any]


def _tensor(storage: object, offset: int, shape: tuple, strides: tuple, *rest: Any, itemsize: int = 0) -> _Tensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``."""
    if not isinstance(storage, _Storage):
        raise Refused("a tensor without a storage")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise ValueError("a tensor of an impossible shape")
    count = last = 1
    for n, stride in zip(shape, strides, strict=True):
        count, last = count * n, last + (n - 1) * stride
    held = storage.n_bytes // (itemsize or storage.itemsize)
    if (count and offset + last > held) or count > max(held, _FEW) or max(shape, default=0) > 1 << 40:
        raise ValueError(f"a tensor of {'x'.join(map(str, shape))} in a storage of {held} values")
    return _Tensor()


def _tensor_of(
    storage: object, offset: int, shape: tuple, strides: tuple, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> _Tensor:
    """Stands for ``torch._utils._rebuild_tensor_v3``, whose storage has no type of its own."""
    if not isinstance(dtype, _Type):
        raise Refused("a tensor without a dtype")
    return _tensor(storage, offset, shape, strides, itemsize=dtype.itemsize)


def _parameter(tensor: object, *rest: Any) -> object:
    """Stands for ``torch._utils._rebuild_parameter``."""
    if not isinstance(tensor, _Tensor):
        raise Refused("a parameter without a tensor")
    return tensor


def _ordered() -> _Ordered:
    return _Ordered()


class _TorchUnpickler(SafeUnpickler):
    """The pickle in a file of weights; ``parts`` are the sizes of its other parts in bytes."""

    known = {  # noqa: RUF012 - as in the base class
        **{("torch", f"{name}Storage"): _Type(size) for name, size in _ITEMSIZE.items()},
        **{("torch", name): _Type(size) for name, size in _DTYPES.items()},
        ("torch.storage", "UntypedStorage"): _Type(1),
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _tensor_of,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): tuple,
        ("collections", "OrderedDict"): _ordered,
        ("_codecs", "encode"): _latin1,
    }
    calls = (_tensor, _tensor_of, _parameter, tuple, _ordered, _latin1)
    dispatch = SafeUnpickler.dispatch.copy()

    def __init__(self, file: IO[bytes], n_bytes: int, parts: dict[str, int]) -> None:
        super().__init__(file, n_bytes)
        self._parts = parts

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor lies in: ``("storage", type, part, device, number of values)``."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], _Type):
            raise Refused("a persistent id that is no storage")
        itemsize, found = pid[1].itemsize, self._parts.get(f"data/{pid[2]}" if isinstance(pid[2], str) else "")
        if type(pid[4]) is not int or found is None or pid[4] * itemsize != found:
            raise ValueError(f"a storage of another length than its part, {found} bytes")
        return _Storage(itemsize, found)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Ordered) or not isinstance(state, dict):
            raise Refused("an object with a state")
        target.attributes = state

    dispatch[b"b"[0]] = load_build


def _children(value: Any) -> Any:
    return [*inside(value), *inside(vars(value))] if isinstance(value, _Ordered) else inside(value)


def check_torch_file(path: str | Path) -> None:
    """Refuse a file of weights whose parts are not what it says, or that holds other things than tensors and values.

    Raises:
        UnsafeFileError: it holds objects.
        ValueError and others: it is damaged, or of torch's format before 1.6.
    """
    try:
        with open_archive(path, stored=True) as archive:
            _check_archive(archive)
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    except Refused as error:
        raise UnsafeFileError(
            "tensors and plain values", got=error, where=path, repair="save state_dict() and plain values only"
        ) from error


def _check_archive(archive: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    root = infos[0].filename.split("/")[0] if infos else ""
    parts = {info.filename.removeprefix(f"{root}/"): info.file_size for info in infos}
    n_bytes = parts.get("data.pkl")
    if n_bytes is None:
        raise ValueError("no data.pkl")
    with archive.open(f"{root}/data.pkl") as file:
        value = _TorchUnpickler(file, n_bytes, parts).load()
    allowed = (_Tensor, dict, list, tuple, set, frozenset, int, float, complex, str, bytes, bytearray, _Type)
    for item in walk(value, n_bytes, _children):
        if item is not None and not isinstance(item, allowed):
            raise Refused("an object")
    bad = archive.testzip()  # torch writes checksums but does not read them
    if bad is not None:
        raise ValueError(f"part {bad} does not have its checksum")


def check_finite(state: Mapping[str, Any], where: object) -> None:
    """Refuse weights (name → tensor) with NaN or infinity.

    Raises:
        ArtifactError: naming the first.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ArtifactError(
                "finite weights",
                got=f"NaN or infinity in {name}",
                where=where,
                repair="use another checkpoint of the run",
            )
