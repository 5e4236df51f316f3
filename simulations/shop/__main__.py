"""Run one instance of a shop service until it is told to stop.

python -m simulations.shop --service catalog --version v1 --instance catalog-v1-1 --address 127.9.9.9 --port 8080
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from aiohttp import web

from simulations.shop.names import sidecar
from simulations.shop.service import Config, ShopService
from simulations.shop.spec import APP_PORT, OUTBOUND_PORT, SERVICES


def _parse(arguments: list[str]) -> Config:
    parser = argparse.ArgumentParser(prog="simulations.shop", description="Run one instance of a shop service.")
    parser.add_argument("--service", required=True, choices=sorted(SERVICES))
    parser.add_argument("--version", default="v1")
    parser.add_argument("--instance", required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=APP_PORT)
    parser.add_argument("--proxy", help=f"the sidecar's outbound URL (default: http://ADDRESS:{OUTBOUND_PORT})")
    parser.add_argument(
        "--name-server",
        metavar="ADDRESS:PORT",
        help="look the sidecar up there, under the name INSTANCE.sidecar.shop, instead of at ADDRESS",
    )
    parser.add_argument(
        "--direct", action="append", default=[], metavar="CALLEE=URL", help="call URL without a mesh (repeatable)"
    )
    parser.add_argument("--fault-control", type=Path, metavar="SOCKET", help="take injected faults on a private socket")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    direct = dict(pair.split("=", 1) for pair in options.direct)
    server, _, port = (options.name_server or "").rpartition(":")
    host = sidecar(options.instance) if server else options.address
    proxy = options.proxy or f"http://{host}:{OUTBOUND_PORT}"
    return Config(
        service=options.service,
        version=options.version,
        instance=options.instance,
        address=options.address,
        port=options.port,
        proxy="" if direct else proxy,
        name_server=(server, int(port)) if server else None,
        direct=direct or None,
        fault_control=options.fault_control,
        seed=options.seed,
    )


async def _run(config: Config) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    service = ShopService(config, SERVICES[config.service])
    control = await service.faults.serve(config.fault_control) if config.fault_control else None
    runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        await web.TCPSite(runner, config.address, config.port, backlog=1024, reuse_address=True).start()
        await stop.wait()
    finally:
        await runner.cleanup()
        if control is not None:
            control.close()


def main() -> None:
    """Run until SIGTERM or SIGINT; a port in use is a clear error with exit code 1."""
    config = _parse(sys.argv[1:])
    try:
        asyncio.run(_run(config))
    except OSError as error:
        print(
            f"shop {config.instance}: cannot listen on {config.address}:{config.port}: {error.strerror or error}; "
            "stop what uses the address or choose another one",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
