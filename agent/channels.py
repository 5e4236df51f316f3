"""How a page is worded for whoever receives it: plain JSON, Slack's incoming webhooks, PagerDuty's Events API v2.

Sources: https://api.slack.com/messaging/webhooks and https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ .
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, assert_never

from agent.codec import summary
from agent.incidents import Incident
from playbooks.effects import fill
from playbooks.schema import Page, Playbook, Severity
from playbooks.view import View

PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"
PAGERDUTY_SUMMARY_MAX: Final = 1024

_MARKS: Final = {
    Severity.INFO: ":information_source:",
    Severity.WARNING: ":warning:",
    Severity.CRITICAL: ":rotating_light:",
}


@dataclass(frozen=True, slots=True)
class Channel:
    """Where pages go. `key_file` holds PagerDuty's routing key; `url` may be left out for `pagerduty`."""

    name: str
    url: str = ""
    format: Literal["plain", "slack", "pagerduty"] = "plain"
    key_file: Path | None = None

    @property
    def address(self) -> str:
        """Return where to post."""
        return self.url or (PAGERDUTY_URL if self.format == "pagerduty" else "")


@dataclass(frozen=True, slots=True)
class Message:
    """One page: its line, more lines, how urgent, and through which channels (none: all)."""

    text: str
    details: str = ""
    severity: Severity = Severity.CRITICAL
    to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What a page is about: an incident, or an objective whose budget burns. `id` is what pages about it have in common.

    `more` is where to read on, `facts` are for programs.
    """

    id: str
    title: str
    source: str
    more: str
    component: str = ""
    signal: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def about(incident: Incident) -> About:
    """Return what a page about an incident is about."""
    cause = incident.cause
    return About(
        id=incident.id,
        title=incident.title,
        source=cause.service if cause and cause.service else "fibrin",
        more=f"`fibrin explain incident/{incident.id}` · playbook {incident.playbook or 'none'}",
        component=cause.subject if cause else "",
        signal=str(cause.signal) if cause else "",
        facts={"incident": summary(incident)},
    )


def message(incident: Incident, text: str, playbooks: Mapping[str, Playbook], view: View) -> Message:
    """Return the page about an incident, with the details and the urgency that its playbook gives."""
    playbook = playbooks.get(incident.playbook)
    if playbook is None or incident.cause is None:
        return Message(text)
    steps = (step.action.spec for step in playbook.spec.steps)
    page = next((spec for spec in steps if isinstance(spec, Page)), playbook.spec.escalate)
    return Message(text, fill(page.details, incident.cause, view), page.severity, page.to)


def body(channel: Channel, what: About, page: Message, key: str) -> Mapping[str, Any]:
    """Return what is posted to a channel. `key` is PagerDuty's routing key."""
    match channel.format:
        case "plain":
            said = {"severity": str(page.severity), "details": page.details}
            return {"text": f"Fibrin {what.id}: {page.text}", **what.facts, **said}
        case "slack":
            return _slack(what, page)
        case "pagerduty":
            return _pagerduty(what, page, key)
        case _:
            assert_never(channel.format)


def _slack(what: About, page: Message) -> Mapping[str, Any]:
    head = f"{_MARKS[page.severity]} *{_escaped(what.title)}*\n{_escaped(page.text)}"
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": head[:3000]}}]
    if page.details:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": _escaped(page.details)[:3000]}})
    context: dict[str, Any] = {"type": "context", "elements": [{"type": "mrkdwn", "text": what.more}]}
    return {"text": f"Fibrin {what.id}: {page.text}", "blocks": [*blocks, context]}


def _escaped(text: str) -> str:
    """Slack's three control characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _pagerduty(what: About, page: Message, key: str) -> Mapping[str, Any]:
    """One alert per incident or objective: its id is the deduplication key."""
    return {
        "routing_key": key,
        "event_action": "trigger",
        "dedup_key": what.id,
        "payload": {
            "summary": page.text[:PAGERDUTY_SUMMARY_MAX],
            "source": what.source,
            "severity": str(page.severity),
            "component": what.component,
            "class": what.signal,
            "custom_details": {"details": page.details, **what.facts},
        },
    }
