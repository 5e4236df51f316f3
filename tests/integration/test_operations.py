"""What those who run a mesh rely on: certificates change under load, a real Prometheus reads every process, a drill stops."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import yaml
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests import RequestException

from agent.client import AgentClient
from models.exposition import AGENT, CONTROL, PROXY
from models.overlay import InjectFault, Overlay
from simulations.addresses import free_port
from simulations.drills.safety import ALLOW, ALLOWED
from simulations.drills.strikes.envoy import LEASE_S
from simulations.shop.spec import INBOUND_PORT, OUTBOUND_PORT
from simulations.small import CALLER, CATALOG, METRICS_PORT, RULES, SmallMesh
from simulations.steady import tally

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "prometheus.yml"
LEAF_LIFETIME_S = 10.0  # renewed at half of it: every 5 s
SETTINGS = {"control": {"leaf_lifetime_s": LEAF_LIFETIME_S, "max_connection_s": 1.0}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SmallMesh]:
    """One mesh for the module, whose certificates live ten seconds and whose catalogue allows drills."""
    async with SmallMesh(tmp_path_factory.mktemp("operations") / "s", SETTINGS, [f"{ALLOW}={ALLOWED}"]) as mesh:
        yield mesh


async def test_certificates_rotate_every_five_seconds_and_no_request_fails(mesh: SmallMesh) -> None:
    """Under load, over two renewals of every sidecar, with connections that last a second: not one request is lost."""
    ends: dict[str, set[float]] = {}
    shown: set[str] = set()
    place = (mesh.addresses[CATALOG[0]], INBOUND_PORT)

    async def renewed_twice() -> bool:
        async with mesh.control() as control:
            for proxy in await control.proxies():
                ends.setdefault(proxy.id, set()).add(proxy.certificate_until)
        shown.add(await asyncio.to_thread(ssl.get_server_certificate, place, timeout=5))
        await asyncio.sleep(0.2)
        return len(ends) == 4 and all(len(found) >= 3 for found in ends.values()) and len(shown) >= 3

    async with mesh.load(80.0) as load:
        await mesh.until(renewed_twice, "every sidecar has had its third certificate")
    samples = await mesh.metrics(mesh.control_url)
    for found in ends.values():
        first, *_, last = sorted(found)
        assert 0.4 * LEAF_LIFETIME_S <= (last - first) / (len(found) - 1) <= 0.6 * LEAF_LIFETIME_S + 1.0
    assert samples["fibrin_identity_rotations_total"] >= 8
    assert sum(value for name, value in samples.items() if name.startswith("fibrin_xds_nacks_total")) == 0
    assert load.answered > 500
    assert load.lost() == [], tally(load.lost())


ROUTED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [catalog]
  http:
  - match: [{uri: {prefix: /products/orders}}]
    fault: {abort: {httpStatus: 503, percentage: {value: 100}}}
    route: [{destination: {host: catalog, subset: v1}}]
  - name: products
    route:
    - {destination: {host: catalog, subset: v1}, weight: 80}
    - {destination: {host: catalog, subset: v2}, weight: 20}
"""
OBJECTIVES = "\n---\n".join(
    f"""
apiVersion: fibrin.dev/v1
kind: ServiceLevelObjective
metadata: {{name: {name}}}
spec: {{service: catalog, {route} signal: availability, objective: 99%, window: 1h}}"""
    for name, route in (
        ("all", ""),
        ("orders", "route: {prefix: /products/orders},"),
        ("products", "route: {name: products},"),
    )
)


async def test_an_objective_of_a_route_counts_the_requests_of_that_rule_and_no_others(mesh: SmallMesh) -> None:
    """Of a service with two rules, one of which fails, each objective counts its own rule to the request, by name or by prefix."""
    asked = {"/products": 40, "/products/orders/7": 30}
    wanted = {"all": (40, 70), "orders": (0, 30), "products": (40, 40)}
    seen: list[dict[str, tuple[int, int]]] = [{}]

    async def ask(path: str) -> int:
        proxy = f"http://{mesh.addresses[CALLER]}:{OUTBOUND_PORT}"
        async with aiohttp.ClientSession() as session, session.get(f"http://catalog{path}", proxy=proxy) as response:
            return response.status

    async def routed() -> bool:
        return await ask("/products/orders/0") == 503

    async def counts() -> dict[str, tuple[int, int]]:
        async with AgentClient(mesh.agent_url) as agent:
            return {one.name: (one.good, one.valid) for one in await agent.objectives()}

    async def quiet() -> bool:
        await asyncio.sleep(1.5)  # longer than a flush and a look of the keeper take
        seen.append(await counts())
        return set(seen[-1]) == set(wanted) and seen[-1] == seen[-2]

    async def counted() -> bool:
        now = await counts()
        before = seen[-1]
        return wanted == {k: (now[k][0] - before[k][0], now[k][1] - before[k][1]) for k in wanted}

    async with mesh.control() as control:
        await control.apply({"routed.yaml": ROUTED, "slo.yaml": OBJECTIVES})
    try:
        await mesh.until(routed, "the caller's sidecar has the rules")
        await mesh.until(quiet, "the objectives are known and nothing is under way")
        for path, times in asked.items():
            for _ in range(times):
                await ask(path)
        await mesh.until(counted, f"each rule's requests are counted: {wanted}")
    finally:
        async with mesh.control() as control:
            for name in wanted:
                await control.delete_resource("ServiceLevelObjective", name)
            await control.apply({"catalog.yaml": RULES})


@asynccontextmanager
async def prometheus(directory: Path, targets: dict[str, str]) -> AsyncIterator[PrometheusConnect]:
    """Run a Prometheus on the shipped example, its targets replaced by those of `targets` (process → host:port)."""
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    config["global"]["scrape_interval"] = "500ms"
    statics = config["scrape_configs"][0]["static_configs"]
    assert [entry["labels"]["process"] for entry in statics] == ["control", "agent"]
    config["scrape_configs"][0]["static_configs"] = [
        {"targets": [place], "labels": {"process": process}} for process, place in targets.items()
    ]
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        yield PrometheusConnect(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Debian's package `prometheus`")
async def test_a_real_prometheus_reads_every_process(mesh: SmallMesh, tmp_path: Path) -> None:
    """By the shipped example: control plane, agent and a sidecar are up, and each shows its own metrics and no other's."""
    sidecar = f"{mesh.addresses[CATALOG[0]]}:{METRICS_PORT}"
    targets = {
        "control": mesh.control_url.removeprefix("http://"),
        "agent": mesh.agent_url.removeprefix("http://"),
        "sidecar": sidecar,
    }
    async with mesh.load(40.0), prometheus(tmp_path, targets) as server:

        async def query(text: str) -> list[dict[str, str]]:
            try:
                found = await asyncio.to_thread(server.custom_query, text)
            except (RequestException, PrometheusApiClientException) as error:
                raise OSError(f"Prometheus: {error}") from error
            return [{**sample["metric"], "value": sample["value"][1]} for sample in found]

        async def all_up() -> bool:
            up = {sample["process"]: sample["value"] for sample in await query('up{job="fibrin"}')}
            answered = await query('fibrin_request_total{callee="catalog"} > 20')
            return up == dict.fromkeys(targets, "1") and bool(answered)

        await mesh.until(all_up, "Prometheus scrapes all three")
        families: dict[str, set[str]] = {}
        for sample in await query('{__name__=~"fibrin_.+"}'):
            families.setdefault(sample["process"], set()).add(sample["__name__"])
        (streams,) = await query("fibrin_xds_streams")
        (fence,) = await query("fibrin_agent_fence")
    for process, prefixes in (("control", CONTROL), ("agent", AGENT), ("sidecar", PROXY)):
        assert families[process]
        assert not {name for name in families[process] if not name.startswith(prefixes)}
    assert (streams["process"], streams["value"]) == ("control", "4")
    assert fence["process"] == "agent"
    assert int(fence["value"]) >= 1


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs Debian's package `prometheus`")
async def test_metrics_are_named_as_prometheus_wants_them(mesh: SmallMesh) -> None:
    """`promtool check metrics` finds nothing to say on any process: base units, `_total` on counters, help texts."""
    for url in (mesh.control_url, mesh.agent_url, f"http://{mesh.addresses[CATALOG[0]]}:{METRICS_PORT}"):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
            body = await response.read()
        tool = await asyncio.create_subprocess_exec(
            *("promtool", "check", "metrics"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        words, _ = await tool.communicate(body)
        assert (tool.returncode, words.decode()) == (0, "")
        kinds = Counter(re.findall(rb"^# TYPE fibrin_\w+ (\w+)$", body, re.MULTILINE))
        assert kinds[b"counter"] >= 5


DRILL = """
apiVersion: fibrin.dev/v1
kind: Drill
metadata: {{name: careful}}
spec:
  description: Half of the requests to one instance fail, which is more than the alarm allows.
  steadyState:
  - {{service: catalog, good: 98%}}
  faults:
  - inject:
      abort: {{service: {service}, instance: {instance}, share: 50%}}
  lasts: 60s
  expect: {{outcome: absorbed}}
  abort:
  - {{service: catalog, good: 97%, lasts: 500ms}}
"""


async def test_a_drill_on_this_mesh_is_refused_practised_and_stopped_by_its_alarm(
    mesh: SmallMesh, tmp_path: Path
) -> None:
    """Without the allow label nothing is broken; else the alarm takes the leased fault back within 5 s, and the mesh is well."""

    async def drill(instance: str, *flags: str) -> tuple[int | None, str, str]:
        file = tmp_path / "drill.yaml"
        file.write_text(DRILL.format(service=instance.split("-", maxsplit=1)[0], instance=instance), encoding="utf-8")
        command = ["-m", "fibrin", *mesh.fibrin, "drill", "run", str(file), "--on-this-mesh", *flags]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=pipe, stderr=pipe)
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def faults() -> list[Overlay]:
        async with mesh.control() as control:
            return [overlay for overlay in await control.overlays() if isinstance(overlay.change, InjectFault)]

    async with mesh.load(60.0):
        code, out, _ = await drill(CALLER, "--dry-run")
        assert (code, "do not allow drills" in out) == (1, True)
        running = asyncio.create_task(drill(CATALOG[0], "-o", "json"), name="drill")
        laid: list[Overlay] = []
        while not laid:
            laid = await faults()
            assert not running.done(), running.result()
        assert laid[0].expires_at - time.time() <= LEASE_S
        began = time.monotonic()
        await mesh.until(lambda: _none(faults), "the fault is taken back")
        assert time.monotonic() - began < 10.0  # the alarm fires within some 3 s, and stops it within 5 more
        code, out, err = await running
    (told,) = json.loads(out)
    assert (code, told["phase"]) == (1, "aborted"), err
    assert "blocking alarm" in told["why"]
    assert any(moment["kind"] == "well again" for moment in told["moments"])


async def _none(look: Callable[[], Awaitable[list[Overlay]]]) -> bool:
    return not await look()
