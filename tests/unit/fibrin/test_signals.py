"""What Ctrl-C and SIGTERM end the command line with, at any moment: their exit code and nothing on stderr.

The scripts take the handler of a foreground process, for a test run in the background ignores SIGINT and so would they.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import fibrin.entry
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "fibrin.cli":
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Interrupt())
fibrin.entry.main()
"""
RUNNING = """
import asyncio, os, signal, click
signal.signal(signal.SIGINT, signal.default_int_handler)
from fibrin import cli
@click.command()
def wait():
    async def go():
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.{name})
        try:
            await asyncio.sleep(60)
        finally:
            print("put in order")
    asyncio.run(go())
cli.cli = wait
cli.sys.argv = ["fibrin"]
cli.main()
"""
PLAIN = """
import os, signal, time, click
signal.signal(signal.SIGINT, signal.default_int_handler)
from fibrin import cli
@click.command()
def wait():
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)
cli.cli = wait
cli.sys.argv = ["fibrin"]
cli.main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize(("script", "told"), [(IMPORTING, ""), (RUNNING, "put in order\n"), (PLAIN, "")])
def test_a_signal_ends_with_its_code(script: str, told: str, name: str, code: int) -> None:
    """While importing, in an event loop (in order) and outside of one."""
    argv = [sys.executable, "-c", script.format(name=name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (code, told, "")
