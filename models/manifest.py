"""YAML text as people write it, turned into data that still knows where each field stood.

Every document's data comes together with the position of each of its fields (`models.placed` reads them), so that an error names the
file, the line, the column and the field. It performs no I/O: whoever read the file passes its name and its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from models.errors import Problem
from models.placed import Node, refuse, roots
from models.plain import Json

Path: TypeAlias = tuple[str | int, ...]
"""Where a field stands in a document: `("spec", "http", 0, "name")`."""

M = TypeVar("M", bound=BaseModel)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


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
    root: Node

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
    documents: list[Document] = []
    problems: list[Problem] = []
    for root in roots(source, text):
        if root.value is None:
            continue
        document, found = _document(source, root, {"apiVersion": api_versions, "kind": kinds, "name": ("my-service",)})
        problems.extend(found)
        documents.append(document)
    if problems:
        refuse(*problems)
    return tuple(documents)


def validate(document: Document, model: type[M]) -> M:
    """Return the document as `model` (strict models work: the data is taken as JSON, so lists may become tuples).

    Raises:
        InvalidInput: with one Problem per finding, each with file, line, column and field.
    """
    try:
        return model.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        refuse(*problems_of(document, error, model))


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
    node: Node | None = document.root
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


def _locate(root: Node, loc: tuple[int | str, ...], *, missing: bool) -> Path:
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


def _document(source: str, root: Node, examples: Mapping[str, Sequence[str]]) -> tuple[Document, list[Problem]]:
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
