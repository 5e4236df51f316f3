"""People's orders to the agent: `approve`, `deny`, `abort`, `pause`, `resume`, `stop-acting`, `resume-acting`."""

from __future__ import annotations

import asyncio
import time

import click

from agent.incidents import Verb
from agent.switch import FILE, Order, write_file
from fibrin.cli.context import Target, pass_target, person
from fibrin.cli.resources import run
from models.errors import Unavailable

DID = {
    Verb.APPROVE: "approved",
    Verb.DENY: "denied; a person has it",
    Verb.ABORT: "aborted: what the agent laid is taken back",
    Verb.PAUSE: "paused: nothing more is done, what is laid stays",
    Verb.RESUME: "resumed",
}

reason_option = click.option("--reason", default="", help="Why; stands in the story and in the audit log.")


def _order(verb: Verb, text: str) -> click.Command:
    @click.command(str(verb), help=text)
    @click.argument("incident")
    @reason_option
    @pass_target
    def command(target: Target, incident: str, reason: str) -> None:
        async def go() -> None:
            async with target.agent() as client:
                found = await client.order(verb, incident, reason)
            click.echo(f"incident/{found['id']} {DID[verb]}")
            if verb is Verb.APPROVE and found["waiting"]:
                click.echo(
                    f"nothing is done yet: {found['waiting']}\nhint: `fibrin resume-acting` takes the kill switch back",
                    err=True,
                )

        run(go())

    return command


@click.command("stop-acting")
@reason_option
@pass_target
def stop_acting(target: Target, reason: str) -> None:
    """Kill switch: the agent changes nothing in the mesh from now on, over restarts, until `resume-acting`."""
    _switch(target, reason, stop=True)


@click.command("resume-acting")
@reason_option
@pass_target
def resume_acting(target: Target, reason: str) -> None:
    """Take the kill switch back."""
    _switch(target, reason, stop=False)


def _switch(target: Target, reason: str, *, stop: bool) -> None:
    """Tell the agent; when it is away, leave the order in its state directory: it holds from its next look on."""

    async def go() -> str:
        try:
            async with target.agent() as client:
                await (client.stop_acting(reason) if stop else client.resume_acting(reason))
        except Unavailable as error:
            if not await asyncio.to_thread(target.state_dir.is_dir):
                raise Unavailable(
                    f"there is no mesh on {target.state_dir}: no such directory",
                    hint="name the mesh's own with --state-dir; `fibrin up` starts a new one",
                ) from error
            order = Order(stop, person(), reason, time.time())
            await asyncio.to_thread(write_file, target.state_dir / FILE, order)
            return f" (the agent does not answer: the order waits in {target.state_dir / FILE})"
        return ""

    how = run(go())
    click.echo(f"the agent {'changes nothing until `fibrin resume-acting`' if stop else 'may act again'}{how}")


COMMANDS = (
    _order(Verb.APPROVE, "Let the agent take the step that an incident waits with."),
    _order(Verb.DENY, "Refuse the planned step; the incident is yours."),
    _order(Verb.ABORT, "Take back what the agent did about an incident, and keep it out."),
    _order(Verb.PAUSE, "Stop an incident where it is; overlays in force are kept."),
    _order(Verb.RESUME, "Let a paused incident go on."),
    stop_acting,
    resume_acting,
)
