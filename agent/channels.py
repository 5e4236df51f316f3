"""How a page is worded for whoever receives it: plain JSON, Slack's incoming webhooks, PagerDuty's Events API v2.

Sources: https://api.slack.com/messaging/webhooks and https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ .
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


def message(incident: Incident, text: str, playbooks: Mapping[str, Playbook], view: View) -> Message:
    """Return the page about an incident, with the details and the urgency that its playbook gives."""
    playbook = playbooks.get(incident.playbook)
    if playbook is None or incident.cause is None:
        return Message(text)
    steps = (step.action.spec for step in playbook.spec.steps)
    page = next((spec for spec in steps if isinstance(spec, Page)), playbook.spec.escalate)
    return Message(text, fill(page.details, incident.cause, view), page.severity, page.to)


def body(channel: Channel, incident: Incident, page: Message, key: str) -> Mapping[str, Any]:
    """Return what is posted to a channel. `key` is PagerDuty's routing key."""
    match channel.format:
        case "plain":
            said = {"severity": str(page.severity), "details": page.details}
            return {"text": f"Fibrin {incident.id}: {page.text}", "incident": summary(incident), **said}
        case "slack":
            return _slack(incident, page)
        case "pagerduty":
            return _pagerduty(incident, page, key)
        case _:
            assert_never(channel.format)


def _slack(incident: Incident, page: Message) -> Mapping[str, Any]:
    head = f"{_MARKS[page.severity]} *{_escaped(incident.title)}*\n{_escaped(page.text)}"
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": head[:3000]}}]
    if page.details:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": _escaped(page.details)[:3000]}})
    more = f"`fibrin explain incident/{incident.id}` · playbook {incident.playbook or 'none'}"
    context: dict[str, Any] = {"type": "context", "elements": [{"type": "mrkdwn", "text": more}]}
    return {"text": f"Fibrin {incident.id}: {page.text}", "blocks": [*blocks, context]}


def _escaped(text: str) -> str:
    """Slack's three control characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _pagerduty(incident: Incident, page: Message, key: str) -> Mapping[str, Any]:
    """One alert per incident: its id is the deduplication key."""
    cause = incident.cause
    return {
        "routing_key": key,
        "event_action": "trigger",
        "dedup_key": incident.id,
        "payload": {
            "summary": page.text[:PAGERDUTY_SUMMARY_MAX],
            "source": cause.service if cause and cause.service else "fibrin",
            "severity": str(page.severity),
            "component": cause.subject if cause else "",
            "class": str(cause.signal) if cause else "",
            "custom_details": {"details": page.details, "incident": summary(incident)},
        },
    }
