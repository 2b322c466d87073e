"""A parser that reads a pickle stream as data: every opcode builds an inert record or is refused.

It follows the opcode table of CPython's ``pickletools`` (protocols 2 to 5). For a REDUCE opcode, :mod:`.builders`
returns a record for the name of the function or refuses the name; nothing is called.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sized
from typing import Any

from .builders import build_record, checked_global
from .records import Collection, Global, Instance, Strided
from .source import RefusedError, truncated

MAX_OPCODES = 1_000_000
MAX_MEMOS = 500_000
MAX_STACK = 20_000
MAX_MARKS = 1_000
MAX_TEXT_BYTES = 32 << 20
"""Limit of one string or bytes. Protocol 2 writes the bytes of a NumPy array as text."""
MAX_INTEGER_BYTES = 32
MAX_PROTOCOL = 5
SLACK = 1 << 23
"""Items and characters that calls and keys may take from their arguments, beyond twice the bytes of the pickle. A value
that is stored once can be an argument many times."""

_KEYS = (str, int, float, bool, type(None), bytes, Global, Instance, Strided)
"""Types of keys, apart from tuples of them. Hashing them takes constant time."""
_MISSING = object()


class PickleParser:
    """Reads one pickle from a buffer.

    Args:
        content: the buffer.
        position: start of the pickle; after :meth:`parse`, its end.
        persistent: maps the persistent identifier of a storage to its record.
        member: name of the archive member, for messages.
    """

    def __init__(
        self, content: bytes, position: int = 0, persistent: Callable[[Any], Any] | None = None, member: str = ""
    ) -> None:
        self.content, self.position = content, position
        self.persistent, self.member = persistent, member
        self.globals: dict[str, None] = {}
        self.stack: list[Any] = []
        self.enclosing: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.enclosing_height = 0
        self.budget = 2 * len(content) + SLACK

    def parse(self) -> Any:
        """Returns the record that the pickle describes.

        Raises:
            RefusedError: anything but plain data, tensors and inert instances within the limits.
        """
        try:
            for _ in range(MAX_OPCODES):
                opcode = self._byte()
                if opcode == STOP:
                    break
                step = STEPS.get(opcode)
                if step is None:
                    raise self._refused(f"contains the pickle opcode {opcode:#04x}", "torch.save does not write it")
                step(self)
                if len(self.stack) + self.enclosing_height > MAX_STACK:
                    raise self._refused("is nested too deeply", f"{MAX_STACK} open values")
            else:
                raise self._refused("is too complex", f"over {MAX_OPCODES:,} pickle opcodes")
        except IndexError:
            raise self._refused("is a broken pickle", "it takes a value from an empty stack") from None
        if self.enclosing or len(self.stack) != 1:
            raise self._refused("is a broken pickle", "it leaves values on the stack")
        return self.stack.pop()

    def _refused(self, what: str, why: str = "") -> RefusedError:
        return RefusedError(what, why=why, member=self.member)

    # reading

    def _byte(self) -> int:
        if self.position >= len(self.content):
            raise truncated(self.member)
        self.position += 1
        return self.content[self.position - 1]

    def _take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self.content):
            raise truncated(self.member)
        return self.content[start : self.position]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self.content.find(b"\n", self.position, self.position + 1024)
        if end < 0:
            raise self._refused("is a broken pickle", "a name is not terminated")
        line = self._take(end - self.position)
        self.position += 1
        return self._decoded(line)

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._refused("contains text that is not UTF-8") from None

    def _blob(self, layout: str) -> bytes:
        length = self._number(layout)
        if length > MAX_TEXT_BYTES:
            raise self._refused("contains a string that is too long", f"{length:,} bytes")
        return self._take(length)

    def spend(self, *lengths: int) -> None:
        """Takes what a call or a key copies from the budget."""
        self.budget -= sum(lengths)
        if self.budget < 0:
            raise self._refused("is too complex", "its values are copied too often")

    # the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.enclosing) >= MAX_MARKS:
            raise self._refused("is nested too deeply", f"{MAX_MARKS} open containers")
        self.enclosing.append(self.stack)
        self.enclosing_height += len(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.enclosing.pop()
        self.enclosing_height -= len(self.stack)
        return items

    def put(self, index: int) -> None:
        if len(self.memo) >= MAX_MEMOS:
            raise self._refused("is too complex", f"over {MAX_MEMOS:,} memos")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        value = self.memo.get(index, _MISSING)
        if value is _MISSING:
            raise self._refused("is a broken pickle", "it refers to a value that was never stored")
        self.push(value)

    # values

    def text(self, layout: str) -> None:
        self.push(self._decoded(self._blob(layout)))

    def integer(self, layout: str) -> None:
        length = self._number(layout)
        if not 0 <= length <= MAX_INTEGER_BYTES:
            raise self._refused("contains an integer that is too long", f"{length:,} bytes")
        self.push(int.from_bytes(self._take(length), "little", signed=True))

    def name(self, module: Any, name: Any) -> None:
        found = checked_global(module, name, self.member)
        self.globals[found.name] = None
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(arguments, tuple):
            self.spend(len(arguments), *(len(part) for part in arguments if isinstance(part, Sized)))
        self.push(build_record(function, arguments, self.member))

    def old_instance(self) -> None:
        self.name(self._line(), self._line())
        raise self._refused("contains an object of pickle protocol 0", self.stack[-1].name)

    def instance(self, extended: bool) -> None:
        keywords = self.stack.pop() if extended else {}
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Global) or not isinstance(arguments, tuple) or keywords != {}:
            raise self._refused("is a broken pickle", "an object without a class or with invalid arguments")
        self.push(Instance(kind.name, arguments))

    def state(self) -> None:
        state = self.stack.pop()
        owner = self.stack[-1]
        if isinstance(owner, dict):
            return  # attributes of a dictionary, such as a state_dict's _metadata, are not needed
        if not isinstance(owner, Instance) or owner.state is not None:
            raise self._refused("contains a tensor or value with attributes", "only plain tensors are read")
        owner.state = state

    def persist(self) -> None:
        if self.persistent is None:
            raise self._refused("refers to a storage in the wrong place")
        self.push(self.persistent(self.stack.pop()))

    # containers

    def extend(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        if isinstance(owner, list):
            owner.extend(items)
        elif isinstance(owner, Instance | Collection):
            owner.items.extend(items)
        else:
            raise self._refused("is a broken pickle", "it appends to something that is not a list")

    def assign(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        target = owner.pairs if isinstance(owner, Instance) else owner
        if not isinstance(target, dict) or len(items) % 2:
            raise self._refused("is a broken pickle", "it adds keys to something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                self._check_key(key)
            target[key] = value

    def _check_key(self, key: Any, depth: int = 0) -> None:
        """Accepts a tuple of keys. Hashing a deeply nested key would overflow the C stack."""
        if not isinstance(key, tuple) or depth > 3:
            raise self._refused("contains a dictionary with unsupported keys", type(key).__name__)
        self.spend(4 * len(key))  # each part is checked and hashed
        for part in key:
            if not isinstance(part, _KEYS):
                self._check_key(part, depth + 1)

    def dictionary(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.assign(items)

    def tuple_of(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        items = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.push(items)

    def pop(self) -> None:
        self.stack.pop() if self.stack else self.pop_mark()

    def protocol(self) -> None:
        number = self._byte()
        if number > MAX_PROTOCOL:
            raise self._refused(f"uses pickle protocol {number}", f"protocols up to {MAX_PROTOCOL} are supported")


STOP = ord(".")
Step = Callable[[PickleParser], object]
STEPS: dict[int, Step] = {
    ord("("): PickleParser.mark,
    ord("0"): PickleParser.pop,
    ord("1"): PickleParser.pop_mark,
    ord("2"): lambda w: w.push(w.stack[-1]),
    ord("N"): lambda w: w.push(None),
    0x88: lambda w: w.push(True),
    0x89: lambda w: w.push(False),
    ord("J"): lambda w: w.push(w._number("<i")),
    ord("K"): lambda w: w.push(w._byte()),
    ord("M"): lambda w: w.push(w._number("<H")),
    ord("G"): lambda w: w.push(w._number(">d")),
    0x8A: lambda w: w.integer("<B"),
    0x8B: lambda w: w.integer("<i"),
    ord("X"): lambda w: w.text("<I"),
    0x8C: lambda w: w.text("<B"),
    0x8D: lambda w: w.text("<Q"),
    ord("B"): lambda w: w.push(w._blob("<I")),
    ord("C"): lambda w: w.push(w._blob("<B")),
    0x8E: lambda w: w.push(w._blob("<Q")),
    0x96: lambda w: w.push(w._blob("<Q")),
    ord("U"): lambda w: w.text("<B"),
    ord("T"): lambda w: w.text("<I"),
    ord(")"): lambda w: w.push(()),
    ord("]"): lambda w: w.push([]),
    ord("}"): lambda w: w.push({}),
    0x8F: lambda w: w.push(Collection([])),
    ord("t"): lambda w: w.push(tuple(w.pop_mark())),
    ord("l"): lambda w: w.push(list(w.pop_mark())),
    ord("d"): PickleParser.dictionary,
    0x91: lambda w: w.push(Collection(w.pop_mark())),
    0x85: lambda w: w.tuple_of(1),
    0x86: lambda w: w.tuple_of(2),
    0x87: lambda w: w.tuple_of(3),
    ord("a"): lambda w: w.extend([w.stack.pop()]),
    ord("e"): lambda w: w.extend(w.pop_mark()),
    0x90: lambda w: w.extend(w.pop_mark()),
    ord("s"): lambda w: w.assign([w.stack.pop(), w.stack.pop()][::-1]),
    ord("u"): lambda w: w.assign(w.pop_mark()),
    ord("q"): lambda w: w.put(w._byte()),
    ord("r"): lambda w: w.put(w._number("<I")),
    0x94: lambda w: w.put(len(w.memo)),
    ord("h"): lambda w: w.recall(w._byte()),
    ord("j"): lambda w: w.recall(w._number("<I")),
    ord("c"): lambda w: w.name(w._line(), w._line()),
    ord("i"): PickleParser.old_instance,
    0x93: PickleParser.stack_global,
    ord("R"): PickleParser.reduce,
    0x81: lambda w: w.instance(False),
    0x92: lambda w: w.instance(True),
    ord("b"): PickleParser.state,
    ord("Q"): PickleParser.persist,
    0x80: PickleParser.protocol,
    0x95: lambda w: w._take(8),
}
"""The action of each opcode."""
