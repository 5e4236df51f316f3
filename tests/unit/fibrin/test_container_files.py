from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml

from agent.settings import AgentSettings
from control.settings import ControlSettings
from fibrin.cli import cli

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def _parses(arguments: list[str]) -> click.Context:
    """Parse a fibrin command line down to its last verb without running it."""
    context = cli.make_context("fibrin", arguments, resilient_parsing=False)
    command: click.Command = cli
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, command, left = command.resolve_command(context, rest)  # type: ignore[assignment]
        context = command.make_context(name, left, parent=context)
    return context


def test_every_command_of_our_image_is_a_fibrin_command_line() -> None:
    """What compose and the Dockerfile start parses as a fibrin command."""
    service = COMPOSE["services"]["demo"]
    assert service["build"] == "."
    assert _parses(service["command"]).params["headless"] is True
    (default,) = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    assert _parses(yaml.safe_load(default)).info_name == "demo"


def test_a_wrong_command_would_be_noticed() -> None:
    """The parser behind this file refuses what fibrin would refuse."""
    with pytest.raises(click.UsageError):
        _parses(["demo", "--headles"])


def test_the_image_copies_what_exists_and_the_ignore_file_lets_it_through() -> None:
    """Every COPY source is in the repository and not hidden by .dockerignore."""
    sources = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert sources == set(allowed)
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_is_pinned_and_runs_without_root() -> None:
    """No :latest, hashes required for every dependency, and a user of its own."""
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) + [s["image"] for s in COMPOSE["services"].values()]
    assert all(":" in image and not image.endswith(":latest") for image in images)
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    assert re.search(r"^USER fibrin$", DOCKERFILE, re.MULTILINE)
    assert COMPOSE["services"]["demo"]["cap_drop"] == ["ALL"]


def test_the_scrape_example_names_the_default_ports_of_both_processes() -> None:
    """docs/examples/prometheus.yml scrapes control plane and agent where they listen by default."""
    config = yaml.safe_load((ROOT / "docs" / "examples" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = [t for c in config["scrape_configs"][0]["static_configs"] for t in c["targets"]]
    control, agent = ControlSettings(state_dir=ROOT), AgentSettings(state_dir=ROOT)
    assert targets == [f"{control.host}:{control.port}", f"{agent.host}:{agent.port}"]
