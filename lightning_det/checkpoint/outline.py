"""The outline of a file that ``torch.save`` has written: its plain data, and the shapes of its tensors.

``torch.load(weights_only=True)`` runs no code, but it trusts sizes: of compressed members, of storages, and of views
that repeat one number. The outline is made by a restricted unpickler, which knows only a dozen names, has limits, and
records tensors instead of reading them. It calls nothing that the file names.
"""

import pickle
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

BYTES = 32 * 2**20
"""Maximum size of the pickle, everything but the numbers of tensors. A large detector's checkpoint has 1 MB."""

READS = 3_000_000
"""Maximum number of reads from a pickle, a few per value. A large detector's checkpoint takes some 200,000."""

MEMBERS = 200_000
"""Maximum number of members in a zip archive. Each storage is one."""

COPIES = 4
"""Tensors may be larger than the file by this factor, because some share their numbers."""

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""The first values in files of torch before 1.6, which are not zip archives."""

ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}

OPCODES = "PROTO STOP MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING "
OPCODES += "EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS GLOBAL REDUCE "
OPCODES += "NEWOBJ BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET"
CODES = [getattr(pickle, name)[0] for name in OPCODES.split()]
"""The opcodes that torch writes and its own reader knows."""


class OutlineError(Exception):
    """The file contradicts itself, or holds more than tensors and plain data."""


class StoredNumbers(NamedTuple):
    """A storage.

    Attributes:
        kind: name of its class, see `ITEM_BYTES`.
        key: name of its member in the archive.
        length: how many numbers it holds.
    """

    kind: str
    key: str
    length: int


class StoredTensor:
    """A tensor in an outline.

    Attributes:
        shape: of the tensor.
        floating: whether its numbers are floating-point.
        bytes: size of all its numbers.
    """

    def __init__(self, numbers: StoredNumbers, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        counts = (offset, *shape, *strides)
        if not isinstance(numbers, StoredNumbers) or len(shape) != len(strides) or len(shape) > 64:
            raise OutlineError("a tensor of an unknown kind")
        if not all(type(n) is int and 0 <= n < 2**48 for n in counts):
            raise OutlineError("a tensor of an impossible size")
        count = prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else offset - 1
        if count > numbers.length or last >= numbers.length:
            raise OutlineError("a tensor that is larger than what is stored of it")
        self.shape = shape
        self.floating = numbers.kind in ("DoubleStorage", "FloatStorage", "HalfStorage", "BFloat16Storage")
        self.bytes = count * ITEM_BYTES[numbers.kind]

    def __setstate__(self, state: Any) -> None:
        raise OutlineError("a tensor that is changed after it was made")


class StoredDict(dict):
    """An ``OrderedDict`` in an outline.

    Attributes:
        attributes: the attributes that the file sets on it.
    """

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Kind(str):
    """The name of a storage class."""

    def __setstate__(self, state: Any) -> None:
        raise OutlineError("a class with a state")


class _Bounded:
    """A stream that refuses to read more than `BYTES`, or more often than `READS`."""

    def __init__(self, stream: IO[bytes]):
        self.stream = stream
        self.bytes = BYTES
        self.reads = READS

    def read(self, count: int) -> bytes:
        self._spend(count)
        return self.stream.read(count)

    def readline(self) -> bytes:
        line = self.stream.readline(1000)
        self._spend(len(line))
        return line

    def _spend(self, count: int) -> None:
        self.bytes -= count
        self.reads -= 1
        if self.bytes < 0 or self.reads < 0:
            raise OutlineError("more plain data than any training writes")


class _Outliner(pickle._Unpickler):  # unlike the C version, it allocates only memory that the file fills
    """An unpickler that knows the names in `self.known` only."""

    dispatch: ClassVar = {code: pickle._Unpickler.dispatch[code] for code in CODES}

    def __init__(self, stream: _Bounded, storage: Callable[[Any], StoredNumbers]):
        super().__init__(stream, encoding="utf-8")
        self.storage = storage
        self.bytes = 0
        self.known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): StoredDict,
            ("torch._utils", "_rebuild_tensor"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
        } | {("torch", name): _Kind(name) for name in ITEM_BYTES}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise OutlineError(f"{module}.{name}"[:200])
        return self.known[module, name]

    def tensor(self, numbers: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
        made = StoredTensor(numbers, offset, tuple(shape), tuple(strides))
        self.bytes += made.bytes
        return made

    def parameter(self, tensor: Any, *rest: Any) -> StoredTensor:
        if not isinstance(tensor, StoredTensor):
            raise OutlineError("a parameter of an unknown kind")
        return tensor

    def persistent_load(self, pid: Any) -> StoredNumbers:
        return self.storage(pid)


def outline(file: Path) -> Any:
    """Reads a file as plain data, with `StoredTensor` for tensors and `StoredDict` for ordered dictionaries.

    Raises:
        OutlineError: the file is damaged, contradicts itself, or holds more than tensors and plain data.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        size = file.stat().st_size
        zipped = stream.read(2) == b"PK"
        stream.seek(0)
        try:
            content, made = _read_zip(stream, size) if zipped else _read_legacy(stream, size)
        except (OSError, OutlineError, MemoryError):
            raise
        except Exception as error:  # a damaged pickle or archive may raise anything
            raise OutlineError(f"{type(error).__name__}: {error}"[:200]) from error
    if made > COPIES * size:
        raise OutlineError("tensors that are larger than the file")
    return content


def _read_zip(stream: IO[bytes], size: int) -> tuple[Any, int]:
    """Reads a zip archive: its content, and the size of its tensors in bytes."""
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        stream.seek(size - 22)
        # torch's reader and this one look for the list of members at the end, so there must be only one.
        begins = members and min(member.header_offset for member in members) == 0
        if not begins or archive.comment or stream.read(4) != b"PK\x05\x06" or len(members) > MEMBERS:
            raise OutlineError("an archive that torch has not written")
        sizes = {member.filename: member.file_size for member in members}
        stored = all(m.compress_type == zipfile.ZIP_STORED and m.file_size == m.compress_size for m in members)
        if not stored or len(sizes) != len(members) or sum(sizes.values()) > size:
            raise OutlineError("members that are compressed, or larger than the file")
        top = members[0].filename.split("/")[0]
        if any(not name.startswith(f"{top}/") for name in sizes):
            raise OutlineError("an archive that torch has not written")

        def storage(pid: Any) -> StoredNumbers:
            word, kind, key, _, count = pid
            numbers = _numbers(kind, key, count)
            if word != "storage" or sizes.get(f"{top}/data/{key}") != count * ITEM_BYTES[kind]:
                raise OutlineError("tensors of another size than their numbers")
            return numbers

        with archive.open(f"{top}/data.pkl") as data:
            return _unpickle(_Bounded(data), storage)


def _read_legacy(stream: IO[bytes], size: int) -> tuple[Any, int]:
    """Reads a file of torch before 1.6: its content, and the size of its tensors in bytes."""
    bounded = _Bounded(stream)
    known: dict[str, StoredNumbers] = {}

    def storage(pid: Any) -> StoredNumbers:
        word, kind, key, _, count, view = pid
        numbers = _numbers(kind, key, count)
        known.setdefault(key, numbers)
        if word != "storage" or view is not None or known[key] != numbers:
            raise OutlineError("tensors of another size than their numbers")
        return numbers

    head = [_unpickle(bounded, storage)[0] for _ in range(2)]
    if head != [MAGIC, PROTOCOL]:
        raise OutlineError("a file that torch has not written")
    _unpickle(bounded, storage)  # values about the machine
    found = _unpickle(bounded, storage)
    if sum(n.length * ITEM_BYTES[n.kind] for n in known.values()) > size:
        raise OutlineError("tensors that are larger than the file")
    return found


def _numbers(kind: Any, key: Any, count: Any) -> StoredNumbers:
    """Makes a storage that a file describes, after checking its values."""
    if type(kind) is not _Kind or type(key) is not str or type(count) is not int or not 0 <= count < 2**48:
        raise OutlineError("numbers of an unknown kind")
    return StoredNumbers(str(kind), key, count)


def _unpickle(stream: _Bounded, storage: Callable[[Any], StoredNumbers]) -> tuple[Any, int]:
    """Reads a pickle: its content, and the size of its tensors in bytes."""
    unpickler = _Outliner(stream, storage)
    return unpickler.load(), unpickler.bytes
