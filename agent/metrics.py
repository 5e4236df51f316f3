"""What the agent counts about itself; all on `/metrics`, prefix `fibrin_agent_`."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)

TICKS: Final = Histogram(
    "fibrin_agent_tick_seconds",
    "Time one turn of the loop takes",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
)
TICKS_LATE: Final = Counter("fibrin_agent_ticks_late_total", "Turns of the loop that took longer than their period")
OPENED: Final = Counter("fibrin_agent_incidents_opened_total", "Incidents opened")
STAGES: Final = Counter("fibrin_agent_incident_stages_total", "Stages that incidents reached", ["stage"])
CAUSES: Final = Counter("fibrin_agent_incidents_total", "Incidents by what caused them", ["cause"])
OPEN: Final = Gauge("fibrin_agent_incidents_open", "Incidents that still move")
ACTIONS: Final = Counter("fibrin_agent_actions_total", "Overlays laid", ["change"])
REFUSED: Final = Counter("fibrin_agent_actions_refused_total", "Actions held back, by interlock", ["interlock"])
UNDONE: Final = Counter("fibrin_agent_undo_total", "Overlays removed because they did not help", ["change"])
UNCERTIFIED: Final = Counter(
    "fibrin_agent_uncertified_total", "Playbooks found to say auto without a fresh certificate"
)
PAGES: Final = Counter("fibrin_agent_pages_total", "People called")
PAGES_FAILED: Final = Counter("fibrin_agent_pages_failed_total", "Calls to the webhook that failed")
AUDIT_FAILED: Final = Counter("fibrin_agent_audit_failures_total", "Audit records that could not be written")
AUDIT_WAITING: Final = Gauge("fibrin_agent_audit_waiting", "Audit records kept in memory until the log can be written")
AUDIT_LOST: Final = Counter("fibrin_agent_audit_lost_total", "Audit records that only the process log has")
STOPPED: Final = Gauge("fibrin_agent_stopped", "1 while the kill switch is thrown")
STORE_FAILED: Final = Counter("fibrin_agent_store_failures_total", "Writes of the agent's database that failed")
BLIND: Final = Gauge("fibrin_agent_blind_reporters", "Sidecars whose telemetry cannot be trusted now")
DETECTION: Final = Histogram("fibrin_agent_detection_seconds", "Onset to first alarm", buckets=_SECONDS)
REACTION: Final = Histogram("fibrin_agent_reaction_seconds", "Onset to first overlay laid", buckets=_SECONDS)
MITIGATION: Final = Histogram("fibrin_agent_mitigation_seconds", "Onset to signal back", buckets=_SECONDS)
CONTROL_ERRORS: Final = Counter("fibrin_agent_control_errors_total", "Calls to the control plane that failed", ["call"])
CONTROL_UP: Final = Gauge("fibrin_agent_control_up", "1 while the control plane answers")
FENCE: Final = Gauge("fibrin_agent_fence", "The fencing token held, 0 without one")
CLOCK_BACK: Final = Counter("fibrin_agent_clock_back_total", "Times that the clock went back by more than a second")
LEASES_LOST: Final = Counter("fibrin_agent_leases_lost_total", "Held overlays found gone", ["reason"])
YIELDED: Final = Counter("fibrin_agent_yields_total", "Places left to a person")
FAILURES: Final = Counter("fibrin_agent_task_failures_total", "Unexpected errors caught at a task's rim", ["task"])
