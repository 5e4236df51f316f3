"""YAML text as people write it, turned into data that still knows where each field stood.

An error message is only useful when it names the file, the line and the column. Plain loaders throw that away, so this
module reads YAML event by event into a small tree of nodes and gives every document's data together with the position
of each of its fields. It performs no I/O: whoever read the file passes its name and its text.

The dialect is what Kubernetes users write, minus its traps (YAML 1.2 core schema): only `true` and `false` are booleans
(`no`, `on` stay text), `010` is ten, dates stay text, keys are text, a duplicate key is an error. Anchors, aliases and
merge keys (`<<`) work; an alias bomb, a nesting beyond `MAX_DEPTH` and a text beyond `MAX_BYTES` are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NoReturn, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml import events

from models.errors import InvalidInput, Problem

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What JSON can say."""

Path: TypeAlias = tuple[str | int, ...]
"""Where a field stands in a document: `("spec", "http", 0, "name")`."""

M = TypeVar("M", bound=BaseModel)

MAX_BYTES: Final = 1024 * 1024
"""Longest text accepted, bytes of UTF-8."""

MAX_DEPTH: Final = 64
"""Deepest nesting accepted."""

MAX_NODES: Final = 100_000
"""Most values in one document once its aliases are written out."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_A_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LONGEST_NUMBER = 64
_TAG = "tag:yaml.org,2002:"
_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, slots=True)
class _Entry:
    """One `key: value` of a mapping, and where its key stands."""

    line: int
    column: int
    node: _Node


@dataclass(frozen=True, slots=True)
class _Node:
    """One YAML value and where it starts (both count from 1). `size` counts the values in it, aliases written out."""

    line: int
    column: int
    value: bool | int | float | str | tuple[_Node, ...] | Mapping[str, _Entry] | None
    size: int = 1

    def plain(self) -> Json:
        """Return the value without its positions."""
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        if isinstance(self.value, Mapping):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        return self.value

    def child(self, part: str | int) -> _Node | None:
        """Return the node one step down, or None when there is none."""
        if isinstance(self.value, tuple):
            inside = isinstance(part, int) and 0 <= part < len(self.value)
            return self.value[part] if inside and isinstance(part, int) else None
        if isinstance(self.value, Mapping):
            entry = self.value.get(str(part))
            return entry.node if entry else None
        return None


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document in the shape of a Kubernetes object, with the position of everything in it.

    `line` is where it starts in `source`. `namespace` is "" when the document names none. `data` is the whole document
    (apiVersion, kind and metadata included); treat it as read-only.
    """

    source: str
    line: int
    api_version: str
    kind: str
    namespace: str
    name: str
    data: Mapping[str, Json]
    root: _Node

    def __str__(self) -> str:
        """Render as `Kind/name`."""
        return f"{self.kind}/{self.name}"

    def position(self, path: Path = ()) -> tuple[int, int]:
        """Return line and column (from 1) of the field at `path`: of its key, or of the item in a list.

        A path that leads nowhere gives the position of the nearest thing above it.
        """
        node = self.root
        place = (node.line, node.column)
        for part in path:
            below = node.child(part)
            if below is None:
                break
            place = (below.line, below.column)
            if isinstance(node.value, Mapping):
                entry = node.value[str(part)]
                place = (entry.line, entry.column)
            node = below
        return place

    def problem(self, path: Path, message: str, *, hint: str = "") -> Problem:
        """Return a `Problem` that points at the field at `path`."""
        line, column = self.position(path)
        return Problem(message, source=self.source, line=line, column=column, field=render(path), hint=hint)


def render(path: Path) -> str:
    """Write a path as people do: `spec.http[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def suggest(word: str, known: Sequence[str]) -> str:
    """Return "did you mean `x`?" when `word` looks like a slip of one of `known`, else what there is to choose from."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"did you mean `{lowered[close[0]]}`?"
    return f"known here: {', '.join(sorted(known))}" if known else ""


def parse(
    source: str, text: str, *, kinds: Sequence[str] = ("Playbook",), api_versions: Sequence[str] = ("fibrin.dev/v1",)
) -> tuple[Document, ...]:
    """Read every document of a YAML text (JSON is YAML too); empty documents are skipped.

    `kinds` and `api_versions` are what the reader of the documents takes: a document without gets them as a hint.

    Raises:
        InvalidInput: the text is too long, is not YAML, or a document lacks `apiVersion`, `kind` or `metadata.name`.
            Its `problems` name each finding by line and column; nothing of the text is to be used then.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"{size} bytes of YAML are more than the {MAX_BYTES} accepted"
        _refuse(Problem(message, source=source, hint="split the file"))
    text = text.removeprefix("\ufeff")
    if (bad := _UNPRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        message = f"the character U+{ord(bad.group()):04X} is not allowed in YAML"
        _refuse(Problem(message, source=source, line=line, column=column, hint="is this file text in UTF-8?"))
    documents: list[Document] = []
    problems: list[Problem] = []
    for root in _Reader(source, text).roots():
        if root.value is None:
            continue
        document, found = _document(source, root, {"apiVersion": api_versions, "kind": kinds, "name": ("my-service",)})
        problems.extend(found)
        documents.append(document)
    if problems:
        _refuse(*problems)
    return tuple(documents)


def validate(document: Document, model: type[M]) -> M:
    """Return the document as `model` (strict models work: the data is taken as JSON, so lists may become tuples).

    Raises:
        InvalidInput: with one Problem per finding, each with file, line, column and field.
    """
    try:
        return model.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        problems = problems_of(document, error, model)
        raise InvalidInput(str(problems[0]), hint=_count(problems), problems=problems) from error


def problems_of(
    document: Document, error: ValidationError, model: type[BaseModel] | None = None
) -> tuple[Problem, ...]:
    """Translate what pydantic found into Problems with file, line, column and field.

    With `model` an unknown field gets a "did you mean". Parts of pydantic's `loc` that are not in the document (the
    tags it adds for unions) are left out. Findings are in the order of their position; equal ones appear once.
    """
    schema = model.model_json_schema(by_alias=True) if model is not None else {}
    problems: dict[Problem, None] = {}
    for detail in error.errors(include_url=False, include_context=True):
        path = _locate(document.root, detail["loc"], missing=detail["type"] == "missing")
        if detail["type"] == "too_short" and _long_enough(document, path, detail.get("ctx", {}).get("min_length", 1)):
            continue  # pydantic counts only the good items; the bad ones are told by themselves
        message, hint = _explain(detail["type"], detail["msg"], document, path)
        if detail["type"] == "extra_forbidden":
            hint = suggest(str(path[-1]), sorted(_known(schema, detail["loc"][:-1]))) if path else ""
        problems[document.problem(path, message, hint=hint)] = None
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column)))


def _long_enough(document: Document, path: Path, least: int) -> bool:
    node: _Node | None = document.root
    for part in path:
        node = node.child(part) if node is not None else None
    return node is not None and isinstance(node.value, tuple) and len(node.value) >= least


def _explain(kind: str, message: str, document: Document, path: Path) -> tuple[str, str]:
    """Put pydantic's finding in words for the person who wrote the file: message and hint."""
    found = document.root
    for part in path:
        found = found.child(part) or found
    if kind == "extra_forbidden":
        return "unknown field", ""
    if kind == "missing":
        return "required field is missing", ""
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.removesuffix(", not 0").replace("Tuple", "list")
    message = message[:1].lower() + message[1:]
    if isinstance(found.value, tuple | Mapping) or kind in {"value_error", "assertion_error"}:
        return message, ""
    hint = ""
    if kind == "string_type" and found.value is not None:
        hint = f'put it in quotes: "{json.dumps(found.value)}"'
    elif kind == "bool_type":
        hint = "write true or false"
    elif kind in {"enum", "literal_error"} and isinstance(found.value, str):
        close = suggest(found.value, re.findall(r"'([^']*)'", message))
        hint = close if close.startswith("did") else ""
    return f"{message}, found {json.dumps(found.value)}", hint


def _locate(root: _Node, loc: tuple[int | str, ...], *, missing: bool) -> Path:
    """Return the part of `loc` that exists in the document, and the last part too when it is what is missing."""
    node = root
    path: list[str | int] = []
    for part in loc:
        below = node.child(part)
        if below is not None:
            path.append(part)
            node = below
    if missing and loc:
        path.append(loc[-1])
    return tuple(path)


def _known(schema: Mapping[str, Json], loc: tuple[int | str, ...]) -> set[str]:
    """Return the field names that a JSON schema knows at `loc`."""
    definitions = schema.get("$defs", {})
    assert isinstance(definitions, dict)
    level = list(_branches(dict(schema), definitions))
    for part in loc:
        below: list[dict[str, Json]] = []
        for branch in level:
            properties = branch.get("properties")
            found = properties.get(str(part)) if isinstance(properties, dict) else None
            found = found or branch.get("items" if isinstance(part, int) else "additionalProperties")
            below.extend(_branches(found, definitions))
        level = below or level  # a part that the schema does not know is the tag of a union
    names: set[str] = set()
    for branch in level:
        properties = branch.get("properties")
        names.update(properties if isinstance(properties, dict) else ())
    return names


def _branches(schema: Json, definitions: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield a schema and everything it refers to or chooses from."""
    if not isinstance(schema, dict):
        return
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        yield from _branches(definitions.get(reference.rpartition("/")[2]), definitions)
    for choice in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(choice), list):
            for option in options:
                yield from _branches(option, definitions)


def _document(source: str, root: _Node, examples: Mapping[str, Sequence[str]]) -> tuple[Document, list[Problem]]:
    """Check what every document must have; return it with what is wrong."""
    data = root.plain()
    head = data if isinstance(data, dict) else {}
    metadata = head.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    texts = {"apiVersion": head.get("apiVersion"), "kind": head.get("kind"), "name": named.get("name")}
    namespace = named.get("namespace", "")
    document = Document(
        source=source,
        line=root.line,
        api_version=str(texts["apiVersion"] or ""),
        kind=str(texts["kind"] or ""),
        namespace=namespace if isinstance(namespace, str) else "",
        name=str(texts["name"] or ""),
        data=head,
        root=root,
    )
    if not isinstance(data, dict):
        wanted = "write `apiVersion:`, `kind:`, `metadata:` and `spec:`"
        return document, [document.problem((), "a document must be a mapping of fields", hint=wanted)]
    problems = []
    for field, some in examples.items():
        path: Path = ("metadata", "name") if field == "name" else (field,)
        if texts[field] is None or texts[field] == "":
            hint = f"for example `{field}: {some[0]}`" if len(some) == 1 else f"one of {', '.join(some)}"
            problems.append(document.problem(path, "required field is missing", hint=hint))
        elif not isinstance(texts[field], str):
            message = f"must be text, found {json.dumps(texts[field])}"
            problems.append(document.problem(path, message, hint="put it in quotes"))
    if document.name and isinstance(texts["name"], str) and not _NAME.fullmatch(document.name):
        hint = "lower-case letters, digits, `-` and `.`, at most 253, a letter or digit at both ends"
        problems.append(document.problem(("metadata", "name"), f"`{document.name}` is not a name", hint=hint))
    return document, problems


class _Reader:
    """Builds trees of nodes from the event stream of one text."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.anchors: dict[str, _Node] = {}
        self.stream: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)

    def roots(self) -> Iterator[_Node]:
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
            _refuse(Problem(message, source=self.source, line=line, column=column, hint=hint))
        except (yaml.YAMLError, RecursionError) as error:
            _refuse(Problem(f"not YAML: {error}", source=self.source))

    def _fail(self, event: yaml.Event, message: str, hint: str = "") -> Problem:
        line, column = _place(event)
        return Problem(message, source=self.source, line=line, column=column, hint=hint)

    def _node(self, event: yaml.Event, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            _refuse(self._fail(event, f"nested deeper than {MAX_DEPTH} levels"))
        line, column = _place(event)
        match event:
            case events.AliasEvent():
                found = self.anchors.get(str(event.anchor))
                if found is None:
                    hint = "define it above with `&`; a value cannot contain itself"
                    _refuse(self._fail(event, f"alias `*{event.anchor}` has no anchor", hint))
                return found
            case events.ScalarEvent():
                node = _Node(line, column, self._scalar(event))
            case events.SequenceStartEvent():
                items: list[_Node] = []
                while not isinstance(below := self._next(), events.SequenceEndEvent):
                    items.append(self._node(below, depth + 1))
                node = _Node(line, column, tuple(items), 1 + sum(item.size for item in items))
            case events.MappingStartEvent():
                entries = self._mapping(depth)
                node = _Node(line, column, entries, 1 + sum(entry.node.size for entry in entries.values()))
            case _:  # the parser yields nothing else between the start and the end of a document
                _refuse(self._fail(event, f"unexpected {type(event).__name__}"))
        if node.size > MAX_NODES:
            _refuse(self._fail(event, f"more than {MAX_NODES} values with aliases written out"))
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _mapping(self, depth: int) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        merged: dict[str, _Entry] = {}
        while not isinstance(event := self._next(), events.MappingEndEvent):
            line, column = _place(event)
            if not isinstance(event, events.ScalarEvent):
                _refuse(self._fail(event, "a key must be plain text"))
            key = str(event.value)
            value = self._node(self._next(), depth + 1)
            if key == "<<" and event.implicit[0]:
                self._merge(event, value, merged)
                continue
            if key in entries:
                hint = f"it stands already on line {entries[key].line}; keep one of the two"
                _refuse(self._fail(event, f"duplicate key `{key}`", hint))
            entries[key] = _Entry(line, column, value)
        return {**merged, **entries}

    def _merge(self, event: yaml.Event, value: _Node, merged: dict[str, _Entry]) -> None:
        sources = value.value if isinstance(value.value, tuple) else (value,)
        for source in sources:
            if not isinstance(source.value, Mapping):
                _refuse(self._fail(event, "`<<` takes a mapping or a list of mappings"))
            for key, entry in source.value.items():
                merged.setdefault(key, entry)

    def _scalar(self, event: events.ScalarEvent) -> bool | int | float | str | None:
        text = str(event.value)
        if event.tag not in (None, "!", f"{_TAG}str"):
            _refuse(self._fail(event, f"the tag `{event.tag}` is not supported", "remove it"))
        if event.tag is not None or not event.implicit[0]:
            return text
        if text in {"", "~", "null", "Null", "NULL"}:
            return None
        if text in {"true", "True", "TRUE", "false", "False", "FALSE"}:
            return text.lower() == "true"
        if _NOT_A_NUMBER.fullmatch(text) or (len(text) > _LONGEST_NUMBER and _FLOAT.fullmatch(text)):
            _refuse(self._fail(event, f"`{text[:_LONGEST_NUMBER]}` is not a number that JSON can hold"))
        if _INT.fullmatch(text):
            return int(text, 10) if text.lstrip("+-").isdigit() else int(text, 0)
        if _FLOAT.fullmatch(text):
            if math.isinf(number := float(text)):
                _refuse(self._fail(event, f"`{text}` is too large a number"))
            return number
        return text


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)


def _count(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problems in all" if len(problems) > 1 else problems[0].hint


def _refuse(*problems: Problem) -> NoReturn:
    raise InvalidInput(str(problems[0]), hint=_count(problems), problems=problems)
