"""A pickle stream read as data: every opcode builds an inert record or is refused.

Follows the opcode table of CPython's ``pickletools`` (protocols 2 to 5). What a REDUCE opcode would call is decided by
:mod:`.builders` from the name alone; whatever is not in its short table is refused by that name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .builders import build, check_name
from .records import Collection, Global, Instance
from .source import RefusedError, truncated

MOST_OPCODES = 1_000_000
MOST_MEMOS = 500_000
TALLEST_STACK = 20_000
DEEPEST_MARKS = 1_000
LONGEST_TEXT = 1 << 20
LONGEST_INTEGER = 32
NEWEST_PROTOCOL = 5

Scalar = (str, int, float, bool, type(None))
_NOTHING = object()


class Walker:
    """Reads one pickle of a buffer.

    Args:
        content: the buffer.
        position: where the pickle begins; after :meth:`walk`, where it ended.
        persistent: turns the identifier of a storage into its record.
        member: the part of the file that this is, for messages.
    """

    def __init__(
        self, content: bytes, position: int = 0, persistent: Callable[[Any], Any] | None = None, member: str = ""
    ) -> None:
        self.content, self.position = content, position
        self.persistent, self.member = persistent, member
        self.globals: dict[str, None] = {}
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.height = 0

    def walk(self) -> Any:
        """The record that the pickle describes.

        Raises:
            RefusedError: anything that is not plain data, tensors or inert instances within the budgets.
        """
        try:
            for _ in range(MOST_OPCODES):
                opcode = self._byte()
                if opcode == STOP:
                    break
                step = STEPS.get(opcode)
                if step is None:
                    raise self._refused(f"holds the pickle opcode {opcode:#04x}", "torch.save does not write it")
                step(self)
                if len(self.stack) + self.height > TALLEST_STACK:
                    raise self._refused("is nested too deeply", f"{TALLEST_STACK} open values")
            else:
                raise self._refused("is too complicated", f"over {MOST_OPCODES:,} pickle opcodes")
        except IndexError:
            raise self._refused("is a broken pickle", "it takes a value that is not there") from None
        if self.below or len(self.stack) != 1:
            raise self._refused("is a broken pickle", "it ends with values left over")
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
            raise self._refused("is a broken pickle", "a name has no end")
        line = self._take(end - self.position)
        self.position += 1
        return self._decoded(line)

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._refused("holds text that is not UTF-8") from None

    def _blob(self, layout: str) -> bytes:
        length = self._number(layout)
        if length > LONGEST_TEXT:
            raise self._refused("holds a text that is too long", f"{length:,} bytes")
        return self._take(length)

    # the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.below) >= DEEPEST_MARKS:
            raise self._refused("is nested too deeply", f"{DEEPEST_MARKS} open containers")
        self.below.append(self.stack)
        self.height += len(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        self.height -= len(self.stack)
        return items

    def put(self, index: int) -> None:
        if len(self.memo) >= MOST_MEMOS:
            raise self._refused("is too complicated", f"over {MOST_MEMOS:,} memos")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        value = self.memo.get(index, _NOTHING)
        if value is _NOTHING:
            raise self._refused("is a broken pickle", "it recalls a value that it never stored")
        self.push(value)

    # values

    def text(self, layout: str) -> None:
        self.push(self._decoded(self._blob(layout)))

    def integer(self, layout: str) -> None:
        length = self._number(layout)
        if not 0 <= length <= LONGEST_INTEGER:
            raise self._refused("holds a number that is too long", f"{length:,} bytes")
        self.push(int.from_bytes(self._take(length), "little", signed=True))

    def name(self, module: Any, name: Any) -> None:
        found = check_name(module, name, self.member)
        self.globals[found.name] = None
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(build(function, arguments, self.member))

    def old_instance(self) -> None:
        self.name(self._line(), self._line())
        raise self._refused("holds an object of pickle protocol 0", self.stack[-1].name)

    def instance(self, extended: bool) -> None:
        keywords = self.stack.pop() if extended else {}
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Global) or not isinstance(arguments, tuple) or keywords != {}:
            raise self._refused("is a broken pickle", "an object without a class or with odd arguments")
        self.push(Instance(kind.name, arguments))

    def state(self) -> None:
        state = self.stack.pop()
        owner = self.stack[-1]
        if isinstance(owner, dict):
            return  # attributes of a dictionary, such as a state_dict's _metadata: they say nothing about weights
        if not isinstance(owner, Instance) or owner.state is not None:
            raise self._refused("holds a tensor or value with attributes", "only plain tensors are read")
        owner.state = state

    def persist(self) -> None:
        if self.persistent is None:
            raise self._refused("refers to a storage where none may be")
        self.push(self.persistent(self.stack.pop()))

    # containers

    def extend(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        if isinstance(owner, list):
            owner.extend(items)
        elif isinstance(owner, Instance | Collection):
            owner.items.extend(items)
        else:
            raise self._refused("is a broken pickle", "items for what is no list")

    def assign(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        target = owner.pairs if isinstance(owner, Instance) else owner
        if not isinstance(target, dict) or len(items) % 2:
            raise self._refused("is a broken pickle", "pairs for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # anything else could be nested without end, and hashing it would overflow the C stack
            if not isinstance(key, Scalar):
                raise self._refused("holds a dictionary with odd keys", type(key).__name__)
            target[key] = value

    def dictionary(self) -> None:
        items = self.since_mark()
        self.push({})
        self.assign(items)

    def tuple_of(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        items = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.push(items)

    def pop(self) -> None:
        self.stack.pop() if self.stack else self.since_mark()

    def protocol(self) -> None:
        number = self._byte()
        if number > NEWEST_PROTOCOL:
            raise self._refused(f"uses pickle protocol {number}", f"known up to {NEWEST_PROTOCOL}")


STOP = ord(".")
Step = Callable[[Walker], object]
STEPS: dict[int, Step] = {
    ord("("): Walker.mark,
    ord("0"): Walker.pop,
    ord("1"): Walker.since_mark,
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
    ord("U"): lambda w: w.text("<B"),
    ord("T"): lambda w: w.text("<I"),
    ord(")"): lambda w: w.push(()),
    ord("]"): lambda w: w.push([]),
    ord("}"): lambda w: w.push({}),
    0x8F: lambda w: w.push(Collection([])),
    ord("t"): lambda w: w.push(tuple(w.since_mark())),
    ord("l"): lambda w: w.push(list(w.since_mark())),
    ord("d"): Walker.dictionary,
    0x91: lambda w: w.push(Collection(w.since_mark())),
    0x85: lambda w: w.tuple_of(1),
    0x86: lambda w: w.tuple_of(2),
    0x87: lambda w: w.tuple_of(3),
    ord("a"): lambda w: w.extend([w.stack.pop()]),
    ord("e"): lambda w: w.extend(w.since_mark()),
    0x90: lambda w: w.extend(w.since_mark()),
    ord("s"): lambda w: w.assign([w.stack.pop(), w.stack.pop()][::-1]),
    ord("u"): lambda w: w.assign(w.since_mark()),
    ord("q"): lambda w: w.put(w._byte()),
    ord("r"): lambda w: w.put(w._number("<I")),
    0x94: lambda w: w.put(len(w.memo)),
    ord("h"): lambda w: w.recall(w._byte()),
    ord("j"): lambda w: w.recall(w._number("<I")),
    ord("c"): lambda w: w.name(w._line(), w._line()),
    ord("i"): Walker.old_instance,
    0x93: Walker.stack_global,
    ord("R"): Walker.reduce,
    0x81: lambda w: w.instance(False),
    0x92: lambda w: w.instance(True),
    ord("b"): Walker.state,
    ord("Q"): Walker.persist,
    0x80: Walker.protocol,
    0x95: lambda w: w._take(8),
}
"""What each opcode does."""
