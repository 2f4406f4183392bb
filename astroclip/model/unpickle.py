"""Read PyTorch checkpoints without executing them.

A pickle is a program for a small stack machine, and a checkpoint from elsewhere is somebody else's program.
Restricting `pickle.Unpickler.find_class` leaves that machine in charge: it still calls what it was given,
asks objects for ``__setstate__``, sets attributes and looks into `copyreg`. So this file is its own, smaller
machine. `pickletools` only decodes the bytes; the machine pushes, pops and stores. A global never becomes
the class or function it names: it is a `Placeholder`, and "calling" one either rebuilds a tensor or a plain
container by a rule written here, or yields another placeholder that records the arguments. Nothing that the
file names is ever imported, looked up or called, so there is nothing to escape to. Instructions that no
checkpoint of the zip era contains (INST, OBJ, EXT, PERSID, Python 2 strings ...) are refused.
"""

import io
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from astroclip.model.archive import Archive

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = {str(dtype): dtype for dtype in _STORAGES.values()}  # "torch.float32": torch.float32
_SCALARS = (type(None), bool, int, float, str, bytes)


@dataclass(eq=False, repr=False)
class Placeholder:
    """Stands for a class, function or object that was not rebuilt; it records and does nothing.

    `args` is None for a bare reference to ``module.name``, else the arguments it would have been called with.
    `state` is what would have become its attributes, `items` and `elements` what would have been put into it.
    """

    module: str
    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.module}.{self.name}>"

    def attribute(self, path: str) -> Any:
        """Return a recorded attribute, item or submodule, or None; ``a.b`` is the attribute b of a."""
        value: Any = self
        for name in path.split("."):
            items = value.items if isinstance(value, Placeholder) else {}
            state = value.state if isinstance(value, Placeholder) else value
            attributes = state if isinstance(state, dict) else {}
            modules = attributes.get("_modules")
            modules = modules if isinstance(modules, dict) else {}
            value = next((part[name] for part in (items, attributes, modules) if name in part), None)
        return value


class _Mark:
    """The mark on the stack."""


def read_checkpoint(path: str | Path) -> Any:
    """Read a checkpoint written by ``torch.save`` (PyTorch 1.6 or newer) without executing anything in it.

    Parameters
    ----------
    path
        A zip archive with ``<root>/data.pkl`` and stored (not compressed) ``<root>/data/<key>`` entries.

    Returns
    -------
    object
        None, bool, int, float, str, bytes, tuple, list, dict, OrderedDict, set, frozenset, `torch.dtype`,
        `torch.Tensor` (parameters too; views into a private memory map of the file, read when used), and an
        inert `Placeholder` for everything else.

    Raises
    ------
    CheckpointError
        For any other format (old non-zip pickles, TorchScript), a truncated or damaged file, a tensor that
        reaches outside its storage, or pickle instructions that no published checkpoint contains.
    """
    archive = Archive(Path(path))
    return _Machine(archive).run(archive.read("data.pkl"))


class _Machine:
    """The inert stack machine. Its methods are the pickle instructions; none of them calls a global."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, pickle: bytes) -> Any:
        """Follow the instructions of `pickle` and return what it describes."""
        stream = io.BytesIO(pickle)
        while True:
            name, read_argument = _OPCODES.get(stream.read(1), (None, None))
            if name is None:
                self.archive.refuse(f"the pickle instruction at byte {stream.tell() - 1} is not allowed")
            try:
                argument = read_argument(stream) if read_argument else None
            except (ValueError, struct.error) as error:
                self.archive.refuse(f"damaged pickle at byte {stream.tell()} ({error})")
            if name == "STOP":
                return self.pop()
            _STEPS[name](self, argument)

    def damaged(self, what: str) -> Any:
        """Raise: the instructions do not fit together."""
        self.archive.refuse(f"damaged pickle: {what}")

    # --- the stack ---------------------------------------------------------------------------------------

    def skip(self, _: Any) -> None:
        """PROTO, FRAME: nothing to do."""

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _Mark:
            self.damaged("the stack is empty")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        taken = []
        while self.stack and self.stack[-1] is not _Mark:
            taken.append(self.stack.pop())
        if not self.stack:
            self.damaged("no mark on the stack")
        self.stack.pop()
        return taken[::-1]

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.damaged(f"nothing was stored under {index}")
        self.push(self.memo[index])

    # --- containers --------------------------------------------------------------------------------------

    def keys(self, keys: list[Any]) -> list[Any]:
        """Return `keys` if hashing them is harmless (that of tuples in tuples can take for ever)."""
        for key in keys:
            for part in key if isinstance(key, tuple) else (key,):
                if not isinstance(part, (*_SCALARS, torch.dtype, Placeholder)):
                    self.damaged(f"a {type(key).__name__} as a dictionary key")
        return keys

    def set_items(self, items: list[Any]) -> None:
        """Put key, value, key, value ... into the dictionary or placeholder on the stack."""
        target = self.top()
        target = target.items if isinstance(target, Placeholder) else target
        if not isinstance(target, dict) or len(items) % 2:
            self.damaged("items without a dictionary")
        target.update(zip(self.keys(items[::2]), items[1::2], strict=True))

    def append(self, elements: list[Any]) -> None:
        """Append to the list or placeholder on the stack."""
        target = self.top()
        target = target.elements if isinstance(target, Placeholder) else target
        if not isinstance(target, list):
            self.damaged("elements without a list")
        target.extend(elements)

    def add(self, members: list[Any]) -> None:
        """Add to the set on the stack."""
        target = self.top()
        if not isinstance(target, set):
            self.damaged("members without a set")
        target.update(self.keys(members))

    # --- globals, objects, tensors -----------------------------------------------------------------------

    def global_(self, module: Any, name: Any) -> None:
        """GLOBAL: push a dtype, or a placeholder for anything else."""
        if not (isinstance(module, str) and isinstance(name, str)):
            self.damaged("a global whose name is not text")
        self.push(_DTYPES.get(f"{module}.{name}") or Placeholder(module, name))

    def call(self, args: Any, target: Any) -> None:
        """REDUCE and NEWOBJ: apply a rule of this file, else record what would have been called."""
        if not isinstance(target, Placeholder) or not isinstance(args, tuple):
            self.damaged("a call of something that is not a class or function")
        rule = _RULES.get((target.module, target.name)) if target.args is None else None
        self.push(rule(self, args) if rule else Placeholder(target.module, target.name, args))

    def build(self, state: Any) -> None:
        """BUILD: a placeholder records its state; attributes of plain containers and tensors are dropped."""
        target = self.top()
        if isinstance(target, Placeholder):
            target.state = state

    def persistent(self, reference: Any) -> None:
        """BINPERSID: push a reference to the bytes of a storage."""
        match reference:
            case ("storage", Placeholder(module="torch", name=kind), str(key), _, int(count)) if (
                kind in _STORAGES
            ):
                self.push(self.archive.storage(key, _STORAGES[kind], count))
            case _:
                self.damaged("a persistent id that is not a storage of a known dtype")

    def tensor(self, args: tuple[Any, ...]) -> torch.Tensor:
        """Rebuild a tensor from (storage, offset, size, stride, ...)."""
        return (
            self.archive.tensor(*args[:4]) if len(args) >= 4 else self.damaged("a tensor without its shape")
        )

    def parameter(self, args: tuple[Any, ...]) -> torch.Tensor:
        """Rebuild a parameter as the plain tensor it is made of."""
        is_tensor = bool(args) and isinstance(args[0], torch.Tensor)
        return args[0] if is_tensor else self.damaged("a parameter that is not a tensor")

    def ordered_dict(self, args: tuple[Any, ...]) -> OrderedDict[Any, Any]:
        """Rebuild an OrderedDict; its items follow."""
        return self.damaged("an OrderedDict with arguments") if args else OrderedDict()

    def size(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Rebuild a torch.Size as the plain tuple it is made of."""
        is_tuple = bool(args) and isinstance(args[0], tuple)
        return args[0] if is_tuple else self.damaged("a torch.Size that is not a tuple")


_RULES: dict[tuple[str, str], Callable[[_Machine, tuple[Any, ...]], Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Machine.tensor,
    ("torch._utils", "_rebuild_parameter"): _Machine.parameter,
    ("collections", "OrderedDict"): _Machine.ordered_dict,
    ("torch", "Size"): _Machine.size,
}

_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
_STRINGS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.skip),
    "MARK": lambda m, _: m.push(_Mark),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    **dict.fromkeys(_NUMBERS + _STRINGS, _Machine.push),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "TUPLE1": lambda m, _: m.push((m.pop(),)),
    "TUPLE2": lambda m, _: m.push((m.pop(), m.pop())[::-1]),
    "TUPLE3": lambda m, _: m.push((m.pop(), m.pop(), m.pop())[::-1]),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "FROZENSET": lambda m, _: m.push(frozenset(m.keys(m.pop_to_mark()))),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.add(m.pop_to_mark()),
    "GLOBAL": lambda m, names: m.global_(*names),
    "STACK_GLOBAL": lambda m, _: m.global_(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, _: m.call(m.pop(), m.pop()),
    "NEWOBJ": lambda m, _: m.call(m.pop(), m.pop()),
    "BUILD": lambda m, _: m.build(m.pop()),
    "BINPERSID": lambda m, _: m.persistent(m.pop()),
}


def _read_names(stream: BinaryIO) -> list[str]:
    """Read the two lines of GLOBAL; the reader of pickletools would interpret backslashes in them."""
    lines = [stream.readline(), stream.readline()]
    if not lines[1].endswith(b"\n"):
        raise ValueError("a global without its name")
    return [line[:-1].decode("utf-8") for line in lines]


_OPCODES = {
    op.code.encode("latin-1"): (op.name, _read_names if op.name == "GLOBAL" else op.arg and op.arg.reader)
    for op in pickletools.opcodes
    if op.name in _STEPS
}
