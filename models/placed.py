"""YAML text turned into a tree whose every value knows where it stood: line and column.

An error message is only useful when it names the file, the line and the column. Plain loaders throw that away, so this
module reads YAML event by event. The dialect is what Kubernetes users write, minus its traps (YAML 1.2 core schema): only `true` and
`false` are booleans (`no`, `on` stay text), `010` is ten, dates stay text, keys are text, a duplicate key is an error. Anchors, aliases
and merge keys (`<<`) work; an alias bomb, a nesting beyond `MAX_DEPTH` and a text beyond `MAX_BYTES` are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import yaml
from yaml import events

from models.errors import InvalidInput, Problem
from models.plain import Json

MAX_BYTES: Final = 1024 * 1024
"""Longest text accepted, bytes of UTF-8."""

MAX_DEPTH: Final = 64
"""Deepest nesting accepted."""

MAX_NODES: Final = 100_000
"""Most values in one document once its aliases are written out."""

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LONGEST_NUMBER = 64
_TAG = "tag:yaml.org,2002:"
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, slots=True)
class Entry:
    """One `key: value` of a mapping, and where its key stands."""

    line: int
    column: int
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """One YAML value and where it starts (both count from 1). `size` counts the values in it, aliases written out."""

    line: int
    column: int
    value: bool | int | float | str | tuple[Node, ...] | Mapping[str, Entry] | None
    size: int = 1

    def plain(self) -> Json:
        """Return the value without its positions."""
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        if isinstance(self.value, Mapping):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        return self.value

    def child(self, part: str | int) -> Node | None:
        """Return the node one step down, or None when there is none."""
        if isinstance(self.value, tuple):
            inside = isinstance(part, int) and 0 <= part < len(self.value)
            return self.value[part] if inside and isinstance(part, int) else None
        if isinstance(self.value, Mapping):
            entry = self.value.get(str(part))
            return entry.node if entry else None
        return None


def roots(source: str, text: str) -> Iterator[Node]:
    """Yield the root of each document in `text`, which came from `source`.

    Raises:
        InvalidInput: the text is too long or is not YAML of this dialect; its `problems` name what and where.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"{size} bytes of YAML are more than the {MAX_BYTES} accepted"
        refuse(Problem(message, source=source, hint="split the file"))
    text = text.removeprefix("\ufeff")
    if (bad := _UNPRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        message = f"the character U+{ord(bad.group()):04X} is not allowed in YAML"
        refuse(Problem(message, source=source, line=line, column=column, hint="is this file text in UTF-8?"))
    yield from _Reader(source, text).roots()


def refuse(*problems: Problem) -> NoReturn:
    """Raise InvalidInput for these problems, of which there is at least one."""
    raise InvalidInput(str(problems[0]), hint=_count(problems), problems=problems)


class _Reader:
    """Builds trees of nodes from the event stream of one text."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.anchors: dict[str, Node] = {}
        self.stream: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)

    def roots(self) -> Iterator[Node]:
        """Yield the root of each document."""
        while not isinstance(event := self._next(), events.StreamEndEvent):
            if isinstance(event, events.DocumentStartEvent):
                self.anchors = {}
                yield self._node(self._next(), depth=0)

    def _next(self) -> yaml.Event:
        try:
            return next(self.stream)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
            message = f"not YAML: {error.problem or error.context}"
            hint = "check indentation and quotes on this line"
            if error.problem and error.context and (begin := error.context_mark) is not None:
                hint = f"{error.context} that begins at {begin.line + 1}:{begin.column + 1}"
            refuse(Problem(message, source=self.source, line=line, column=column, hint=hint))
        except (yaml.YAMLError, RecursionError) as error:
            refuse(Problem(f"not YAML: {error}", source=self.source))

    def _fail(self, event: yaml.Event, message: str, hint: str = "") -> Problem:
        line, column = _place(event)
        return Problem(message, source=self.source, line=line, column=column, hint=hint)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if depth > MAX_DEPTH:
            refuse(self._fail(event, f"nested deeper than {MAX_DEPTH} levels"))
        line, column = _place(event)
        match event:
            case events.AliasEvent():
                found = self.anchors.get(str(event.anchor))
                if found is None:
                    hint = "define it above with `&`; a value cannot contain itself"
                    refuse(self._fail(event, f"alias `*{event.anchor}` has no anchor", hint))
                return found
            case events.ScalarEvent():
                node = Node(line, column, self._scalar(event))
            case events.SequenceStartEvent():
                items: list[Node] = []
                while not isinstance(below := self._next(), events.SequenceEndEvent):
                    items.append(self._node(below, depth + 1))
                node = Node(line, column, tuple(items), 1 + sum(item.size for item in items))
            case events.MappingStartEvent():
                entries = self._mapping(depth)
                node = Node(line, column, entries, 1 + sum(entry.node.size for entry in entries.values()))
            case _:  # the parser yields nothing else between the start and the end of a document
                refuse(self._fail(event, f"unexpected {type(event).__name__}"))
        if node.size > MAX_NODES:
            refuse(self._fail(event, f"more than {MAX_NODES} values with aliases written out"))
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _mapping(self, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        while not isinstance(event := self._next(), events.MappingEndEvent):
            line, column = _place(event)
            if not isinstance(event, events.ScalarEvent):
                refuse(self._fail(event, "a key must be plain text"))
            key = str(event.value)
            value = self._node(self._next(), depth + 1)
            if key == "<<" and event.implicit[0]:
                self._merge(event, value, merged)
                continue
            if key in entries:
                hint = f"it stands already on line {entries[key].line}; keep one of the two"
                refuse(self._fail(event, f"duplicate key `{key}`", hint))
            entries[key] = Entry(line, column, value)
        return {**merged, **entries}

    def _merge(self, event: yaml.Event, value: Node, merged: dict[str, Entry]) -> None:
        sources = value.value if isinstance(value.value, tuple) else (value,)
        for source in sources:
            if not isinstance(source.value, Mapping):
                refuse(self._fail(event, "`<<` takes a mapping or a list of mappings"))
            for key, entry in source.value.items():
                merged.setdefault(key, entry)

    def _scalar(self, event: events.ScalarEvent) -> bool | int | float | str | None:
        text = str(event.value)
        if event.tag not in (None, "!", f"{_TAG}str"):
            refuse(self._fail(event, f"the tag `{event.tag}` is not supported", "remove it"))
        if event.tag is not None or not event.implicit[0]:
            return text
        if text in {"", "~", "null", "Null", "NULL"}:
            return None
        if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
            return text.lower() == "true"
        if _NOT_A_NUMBER.fullmatch(text) or (len(text) > _LONGEST_NUMBER and _FLOAT.fullmatch(text)):
            refuse(self._fail(event, f"`{text[:_LONGEST_NUMBER]}` is not a number that JSON can hold"))
        if _INT.fullmatch(text):
            return int(text, 10) if text.lstrip("+-").isdigit() else int(text, 0)
        if _FLOAT.fullmatch(text):
            if math.isinf(number := float(text)):
                refuse(self._fail(event, f"`{text}` is too large a number"))
            return number
        return text


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)


def _count(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problems in all" if len(problems) > 1 else problems[0].hint
