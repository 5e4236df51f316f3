"""The declared resources there are: applied all or nothing, deleted only when nothing else needs them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import assert_never

from control import metrics
from control.changes import ChangeLog
from control.clock import Clock
from control.resources import validation
from control.resources.canary import Canary, rollout
from control.resources.compile import compile_policies
from control.resources.loading import KINDS, Declared, Key, load, refuse, restore
from control.resources.objective import ServiceLevelObjective, objective
from control.resources.schema import DestinationRule, VirtualService
from control.store import Drop, Put, Store, Write
from control.wire import RESOURCE, Action, Applied, ApplyResult, Resource
from models.domain import ChangeKind
from models.errors import InvalidInput, NotFound
from models.manifest import suggest
from models.objective import Objective
from models.plain import Json
from models.policy import ServicePolicy
from models.rollout import Rollout


class DeclaredSet:
    """All declared resources and the policies they make. One change at a time."""

    def __init__(self, clock: Clock, changes: ChangeLog, store: Store) -> None:
        self._clock = clock
        self._changes = changes
        self._store = store
        self._declared: Mapping[Key, Declared] = {}
        self._stored: Mapping[Key, Resource] = {}
        self._policies: Mapping[str, ServicePolicy] = {}
        self._changing = asyncio.Lock()

    @property
    def policies(self) -> Mapping[str, ServicePolicy]:
        """The declared policy of every service that a resource speaks of."""
        return self._policies

    def resources(self, kind: str = "") -> tuple[Resource, ...]:
        """Return the stored resources, of one kind or all, by kind and name.

        Raises:
            NotFound: there is no such kind.
        """
        if kind and kind not in KINDS:
            raise NotFound(f"there is no kind `{kind}`", hint=suggest(kind, tuple(KINDS)))
        return tuple(self._stored[key] for key in sorted(self._stored) if kind in ("", key[0]))

    def resource(self, kind: str, name: str) -> Resource:
        """Return one stored resource, or raise NotFound."""
        self.resources(kind)
        found = self._stored.get((kind, name))
        if found is None:
            known = [key[1] for key in self._stored if key[0] == kind]
            raise NotFound(f"there is no {kind} `{name}`", hint=suggest(name, known))
        return found

    def rollouts(self) -> tuple[Rollout, ...]:
        """Return the declared canaries, by name."""
        found = []
        for key, item in sorted(self._declared.items()):
            if isinstance(item.model, Canary):
                stored, spec = self._stored[key], item.model.spec
                service = _service(item)
                found.append(rollout(key[1], service, spec, generation=stored.generation, created_at=stored.created_at))
        return tuple(found)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the declared objectives, by name."""
        found, tables = [], validation.route_tables(self._declared)
        for key, item in sorted(self._declared.items()):
            if isinstance(item.model, ServiceLevelObjective):
                stored, spec = self._stored[key], item.model.spec
                promised = objective(
                    key[1], _service(item), spec, tables, generation=stored.generation, created_at=stored.created_at
                )
                found.append(promised)
        return tuple(found)

    def restore(self, rows: Mapping[str, Mapping[str, Json]]) -> None:
        """Take back what the store kept.

        Raises:
            InvalidInput: this version cannot read what an older one accepted.
        """
        stored = [RESOURCE.validate_python(body) for body in rows.values()]
        declared = {(item.kind, item.name): restore(item.manifest) for item in stored}
        self._stored = {(item.kind, item.name): item for item in stored}
        self._declared = declared
        self._policies = compile_policies(declared)

    async def apply(
        self, texts: Sequence[tuple[str, str]], *, services: Collection[str], actor: str, dry_run: bool
    ) -> ApplyResult:
        """Apply manifests given as (source, text): all of them or, on any finding, none.

        Args:
            texts: what to apply.
            services: services that have instances; speaking of another one is a warning.
            actor: who applies.
            dry_run: judge, change nothing.

        Raises:
            InvalidInput: with every finding. Broken: it could not be stored; nothing was applied.
        """
        given, warnings = await asyncio.to_thread(load, texts)
        if not given:
            names = ", ".join(source for source, _ in texts) or "what was given"
            raise InvalidInput(f"there is no resource in {names}", hint="is the file empty?")
        async with self._changing:
            new = {item.key: item for item in given}
            declared = {**self._declared, **new}
            refuse(validation.check(declared))
            warnings += validation.warnings(new, services)
            results = tuple(Applied(*item.key, self._action(item)) for item in given)
            if dry_run:
                return ApplyResult(results, warnings, dry_run=True)
            changed = [item for item, result in zip(given, results, strict=True) if result.action != "unchanged"]
            stored = {**self._stored, **{item.key: self._resource(item, actor) for item in changed}}
            writes: list[Write] = [Put("resources", "/".join(item.key), asdict(stored[item.key])) for item in changed]
            await self._store.write(*writes)
            self._take(declared, stored, actor)
            return ApplyResult(results, warnings)

    async def delete(self, kind: str, name: str, *, actor: str) -> None:
        """Delete a resource.

        Raises:
            NotFound: there is none. InvalidInput: another resource needs it. Broken: the store fails.
        """
        async with self._changing:
            key = (self.resource(kind, name).kind, name)
            declared = {other: item for other, item in self._declared.items() if other != key}
            problems = validation.check(declared)
            if problems:
                raise InvalidInput(
                    f"{kind}/{name} is needed: {problems[0]}",
                    hint="delete or change first what refers to it",
                    problems=problems,
                )
            await self._store.write(Drop("resources", "/".join(key)))
            self._take(declared, {other: item for other, item in self._stored.items() if other != key}, actor)

    def count(self) -> None:
        """Write the gauges."""
        found = Counter(key[0] for key in self._stored)
        for kind in KINDS:
            metrics.RESOURCES.labels(kind).set(found.get(kind, 0))

    def _action(self, item: Declared) -> Action:
        before = self._stored.get(item.key)
        if before is None:
            return "created"
        return "unchanged" if _same(before.manifest, item.manifest) else "configured"

    def _resource(self, item: Declared, actor: str) -> Resource:
        now = self._clock.wall()
        before = self._stored.get(item.key)
        return Resource(
            kind=item.kind,
            name=item.name,
            namespace=item.namespace,
            api_version=item.document.api_version,
            manifest=dict(item.manifest),
            source=item.document.source,
            generation=before.generation + 1 if before else 1,
            created_at=before.created_at if before else now,
            updated_at=now,
            actor=actor,
        )

    def _take(self, declared: Mapping[Key, Declared], stored: Mapping[Key, Resource], actor: str) -> None:
        """Put a new set in force and tell what changed."""
        before, self._policies = self._policies, compile_policies(declared)
        touched = [key for key in {**self._stored, **stored} if self._stored.get(key) != stored.get(key)]
        names = {item.key: item for item in {**self._declared, **declared}.values()}
        self._declared, self._stored = declared, stored
        for kind, name in sorted(touched):
            service = _service(names[kind, name])
            what = "deleted" if (kind, name) not in stored else "applied"
            weights = _weights(before.get(service)) != _weights(self._policies.get(service))
            change = ChangeKind.WEIGHT if kind == "VirtualService" and weights else ChangeKind.CONFIG
            writes = self._changes.add(
                change, f"{kind}/{name}", service=service, actor=actor, message=f"{kind}/{name} {what}"
            )
            self._store.write_soon(*writes)


def _service(item: Declared) -> str:
    match item.model:
        case DestinationRule() as rule:
            return item.host(rule.spec.host)
        case VirtualService() as route:
            return item.host(route.spec.http[0].route[0].destination.host)
        case Canary() as canary:
            return item.host(canary.spec.service)
        case ServiceLevelObjective() as promise:
            return item.host(promise.spec.service)
        case _:
            assert_never(item.model)


def _weights(policy: ServicePolicy | None) -> tuple[Mapping[str, int], ...]:
    return tuple(route.weights for route in policy.routes) if policy else ()


def _same(before: Mapping[str, Json], after: Mapping[str, Json]) -> bool:
    """Compare what a person wrote; the API server's own marks in metadata and status do not count."""

    def bare(manifest: Mapping[str, Json]) -> dict[str, Json]:
        metadata = manifest.get("metadata")
        kept = {k: v for k, v in metadata.items() if k in _OWN} if isinstance(metadata, dict) else metadata
        return {**{k: v for k, v in manifest.items() if k != "status"}, "metadata": kept}

    return bare(before) == bare(after)


_OWN = ("name", "namespace", "labels", "annotations")
