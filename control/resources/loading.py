"""Manifests in, declared resources out; every finding with file, line, column and field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from pydantic import ValidationError

from control.resources import canary, istio
from control.resources.canary import Canary
from control.resources.objective import ServiceLevelObjective
from control.resources.schema import API_VERSIONS, DestinationRule, FallbackSpec, VirtualService
from control.resources.values import interval, share
from models.errors import InvalidInput, Problem
from models.manifest import Document, Path, parse, problems_of, suggest
from models.plain import Json

Model: TypeAlias = VirtualService | DestinationRule | Canary | ServiceLevelObjective

KINDS: Final[Mapping[str, type[Model]]] = {
    "VirtualService": VirtualService,
    "DestinationRule": DestinationRule,
    "Canary": Canary,
    "ServiceLevelObjective": ServiceLevelObjective,
}
OWN: Final = ("Canary", "ServiceLevelObjective")
"""Kinds of our own: their apiVersion is ours."""

FALLBACK: Final = "fibrin.dev/fallback"
RETRY_BUDGET: Final = "fibrin.dev/retry-budget"
RETRY_BACKOFF: Final = "fibrin.dev/retry-backoff"
ANNOTATIONS: Final = (FALLBACK, RETRY_BUDGET, RETRY_BACKOFF)

Key: TypeAlias = tuple[str, str]
"""Kind and full name (`name` or `name.namespace`) of a resource."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One declared resource, read and found sound in itself."""

    model: Model
    document: Document

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.model.kind

    @property
    def namespace(self) -> str:
        """The namespace, "default" when the manifest names none."""
        return self.model.metadata.namespace or "default"

    @property
    def name(self) -> str:
        """The name within all namespaces: `name`, or `name.namespace` outside the default one."""
        name = self.model.metadata.name
        return name if self.namespace == "default" else f"{name}.{self.namespace}"

    @property
    def key(self) -> Key:
        """What tells this resource from all others."""
        return (self.kind, self.name)

    @property
    def manifest(self) -> Mapping[str, Json]:
        """The document as written."""
        return self.document.data

    def host(self, text: str) -> str:
        """Return the service that a host name in this resource means."""
        return canonical(text, self.namespace)

    def problem(self, path: Path, message: str, *, hint: str = "") -> Problem:
        """Return a problem that points at a field of this resource."""
        found = self.document.problem(path, message, hint=hint)
        return found if found.source else replace(found, source=f"{self.kind}/{self.name}", line=0, column=0)


def canonical(host: str, namespace: str = "default") -> str:
    """Return a host as the mesh names services: `catalog`, or `catalog.shop` outside the default namespace.

    A short name lives in `namespace`; the suffixes `.svc` and `.svc.cluster.local` are left out.
    """
    name = host.removesuffix(".cluster.local").removesuffix(".svc").removesuffix(".default")
    return f"{name}.{namespace}" if "." not in host and namespace != "default" else name


def load(texts: Iterable[tuple[str, str]]) -> tuple[tuple[Declared, ...], tuple[Problem, ...]]:
    """Read manifests given as (source, text); return the resources and the warnings.

    Raises:
        InvalidInput: with every finding of every text; nothing of them is to be used then.
    """
    found: list[Declared] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for source, text in texts:
        try:
            documents = parse(source, text, kinds=tuple(KINDS), api_versions=(API_VERSIONS[0], *canary.API_VERSIONS))
        except InvalidInput as error:
            problems.extend(error.problems)
            continue
        for document in documents:
            try:
                declared = read(document)
            except InvalidInput as error:
                problems.extend(error.problems)
                continue
            warnings.extend(_without_effect(declared))
            found.append(declared)
    problems.extend(_twice(found))
    refuse(problems)
    return tuple(found), tuple(warnings)


def restore(manifest: Mapping[str, Json]) -> Declared:
    """Read a manifest back from the store, where it has no lines."""
    (document,) = parse("", json.dumps(manifest))
    return read(document)


def read(document: Document) -> Declared:
    """Read one document.

    Raises:
        InvalidInput: with every finding.
    """
    model = KINDS.get(document.kind)
    if model is None:
        known = document.kind in istio.KINDS_TO_COME
        message = f"the kind {document.kind} is {'not supported yet' if known else 'unknown'}"
        hint = f"read here: {', '.join(KINDS)}" if known else suggest(document.kind, tuple(KINDS))
        raise InvalidInput(message, problems=(document.problem(("kind",), message, hint=hint),))
    problems: list[Problem] = []
    versions = canary.API_VERSIONS if document.kind in OWN else API_VERSIONS
    if document.api_version not in versions:
        hint = f"write {versions[0]}"
        message = f"`{document.api_version}` is not an apiVersion of {document.kind}"
        problems.append(document.problem(("apiVersion",), message, hint=hint))
    try:
        declared = Declared(model.model_validate_json(json.dumps(document.data)), document)
    except ValidationError as error:
        problems.extend(_to_come(document.kind, problem) for problem in problems_of(document, error, model))
        raise InvalidInput(problems[0].message, problems=tuple(problems)) from error
    problems.extend(_annotations(declared))
    if problems:
        raise InvalidInput(problems[0].message, problems=tuple(problems))
    return declared


def refuse(problems: Iterable[Problem]) -> None:
    """Raise InvalidInput when there are problems."""
    found = tuple(problems)
    if not found:
        return
    hint = found[0].hint if len(found) == 1 else f"{len(found)} problems in all; nothing was applied"
    raise InvalidInput(str(found[0]), hint=hint, problems=found)


def fallback(declared: Declared) -> FallbackSpec | None:
    """Return the declared fallback answer, or None.

    Raises:
        ValueError: the annotation is not the JSON it should be (pydantic's ValidationError is one).
    """
    text = declared.model.metadata.annotations.get(FALLBACK)
    return FallbackSpec.model_validate_json(text) if text is not None else None


def _annotations(declared: Declared) -> Iterable[Problem]:
    annotations = declared.model.metadata.annotations
    for name, text in annotations.items():
        if not name.startswith("fibrin.dev/"):
            continue
        path: Path = ("metadata", "annotations", name)
        if name not in ANNOTATIONS:
            yield declared.problem(path, "unknown annotation", hint=suggest(name, ANNOTATIONS))
        elif declared.kind != "VirtualService":
            yield declared.problem(path, f"has no meaning on a {declared.kind}", hint="put it on the VirtualService")
        else:
            try:
                if name == FALLBACK:
                    fallback(declared)
                elif name == RETRY_BUDGET:
                    share(text)
                else:
                    interval(text)
            except ValidationError as error:
                for detail in error.errors(include_url=False):
                    place = ".".join(str(part) for part in detail["loc"])
                    message = f"{place}: {detail['msg']}" if place else str(detail["msg"])
                    hint = 'such as {"status": 200, "body": "[]", "contentType": "application/json"}'
                    yield declared.problem(path, message, hint=hint)
            except ValueError as error:
                yield declared.problem(path, str(error))


def _to_come(kind: str, problem: Problem) -> Problem:
    """Tell a field of Istio's that we do not read from a typo."""
    if problem.message == "unknown field" and istio.is_unsupported(kind, problem.field):
        return replace(problem, message="not supported yet", hint="Istio knows this field, Fibrin does not; remove it")
    return problem


def _without_effect(declared: Declared) -> Iterable[Problem]:
    table = istio.WITHOUT_EFFECT.get(declared.kind, {})

    def walk(value: Json, path: Path, text: str) -> Iterable[Problem]:
        if text in table:
            yield declared.problem(path, "is read, but has no effect", hint=table[text])
        elif isinstance(value, dict):
            for name, below in value.items():
                yield from walk(below, (*path, name), f"{text}.{name}" if text else name)
        elif isinstance(value, list):
            for index, below in enumerate(value):
                yield from walk(below, (*path, index), f"{text}[]")

    return walk(dict(declared.manifest), (), "")


def _twice(found: Iterable[Declared]) -> Iterable[Problem]:
    seen: dict[Key, Declared] = {}
    for declared in found:
        if (first := seen.setdefault(declared.key, declared)) is not declared:
            place = f"{first.document.source}:{first.document.line}"
            message = f"{declared.kind}/{declared.name} is given twice"
            yield declared.problem(("metadata", "name"), message, hint=f"the other one starts at {place}")
