"""The page for people: one self-contained HTML file, a table of all drills and a section for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from simulations.drills.report.charts import Chart, scene, svg
from simulations.drills.report.told import Case, Moment, Told, markers

_HALF: Final = 0.5  # the lower half of a chart is left out when nothing falls there

_STYLE: Final = """
:root{--ink:#1a202c;--soft:#5b6676;--line:#e2e8f0;--paper:#fff;--ground:#f6f8fa;--good:#047857;--bad:#b91c1c}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:14px/1.5 system-ui,sans-serif}
main{max-width:1200px;margin:0 auto;padding:28px 20px 60px}h1{font-size:24px;margin:0 0 2px}h2{font-size:19px;margin:0}
h3{font-size:12px;letter-spacing:.04em;text-transform:uppercase;color:var(--soft);margin:20px 0 6px}
.sub{color:var(--soft);margin:0 0 18px}section,.all{background:var(--paper);border:1px solid var(--line);border-radius:10px;
padding:18px 22px;margin:18px 0}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:5px 10px 5px 0;
border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:600;font-size:12px}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}td.name{white-space:nowrap}a{color:#0b6bcb;
text-decoration:none}
.badge{display:inline-block;border-radius:999px;padding:1px 10px;font-weight:600;font-size:12px;color:#fff;background:var(--good)}
.badge.bad{background:var(--bad)}.head{display:flex;gap:12px;align-items:center}.head .topic{color:var(--soft);margin-left:auto}
.figures{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0 4px}.figure{border:1px solid var(--line);border-radius:8px;
padding:6px 12px;min-width:96px}.figure b{display:block;font-size:15px;font-variant-numeric:tabular-nums}
.figure span{color:var(--soft);font-size:12px}.charts{display:grid;grid-template-columns:1fr 1fr;gap:14px 22px;margin-top:8px}
svg{width:100%;height:auto;display:block}svg text{font:9.5px system-ui,sans-serif}svg text.tick{fill:var(--soft)}
svg text.title{font-size:12px;font-weight:600;fill:var(--ink)}svg text.mark{font-size:9px}
svg .grid{stroke:var(--line)}svg .fault{fill:#b91c1c;opacity:.05}ul{margin:0;padding-left:18px}li{margin:1px 0}.cols{display:grid;grid-template-columns:1fr 1fr;
gap:0 30px}.ok{color:var(--good)}.no{color:var(--bad);font-weight:600}details{margin-top:12px}summary{cursor:pointer;
color:#0b6bcb}pre{white-space:pre-wrap;font:12px/1.5 ui-monospace,monospace;margin:6px 0;color:var(--ink)}
@media(max-width:820px){.charts,.cols{grid-template-columns:1fr}}
"""


def page(drills: Sequence[Told], made: float) -> str:
    """Return the whole page; `made` is Unix time."""
    passed = sum(drill.passed for drill in drills)
    when = datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = f"{passed} of {len(drills)} drills passed" if len(drills) != 1 else f"Drill {drills[0].name}"
    body = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1><p class='sub'>Fibrin chaos drills on real sidecars, {when}</p>",
        _overview(drills) if len(drills) > 1 else "",
        *(_drill(drill) for drill in drills),
        "</main></body></html>",
    ]
    return "".join(body) + "\n"


def _overview(drills: Sequence[Told]) -> str:
    rows = []
    for d in drills:
        cells = [
            f"<td>{_badge(d)}</td><td><a href='#{escape(d.name)}'>{escape(d.name)}</a></td><td>{escape(d.topic)}</td>",
            f"<td>{escape(d.outcome or d.phase)}</td><td>{escape(d.cause or '–')}</td><td>{escape(d.playbook or '–')}</td>",
            *(f"<td class='n'>{_seconds(v)}</td>" for v in (d.detected_s, d.acted_s, d.mitigated_s)),
            f"<td class='n'>{_lost(d)}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    names = ("", "drill", "class", "outcome", "cause found", "playbook")
    head = "".join(f"<th>{name}</th>" for name in names)
    head += "".join(f"<th class='n'>{name}</th>" for name in ("detected", "acted", "users well", "lost"))
    return f"<div class='all'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _drill(d: Told) -> str:
    figures = [
        ("detected", _seconds(d.detected_s)),
        ("acted", _seconds(d.acted_s)),
        ("users well again", _seconds(d.mitigated_s)),
        ("requests lost", _lost(d)),
        ("outcome", d.outcome or d.phase),
        ("cause found", d.cause or "–"),
        ("playbook", d.playbook or "–"),
    ]
    boxes = "".join(f"<div class='figure'><b>{escape(v)}</b><span>{k}</span></div>" for k, v in figures)
    parts = [
        f"<section id='{escape(d.name)}'><div class='head'>{_badge(d)}<h2>{escape(d.name)}</h2>",
        f"<span class='topic'>{escape(d.topic)}</span></div>",
        f"<p class='sub'>{escape(d.description)}</p>",
        f"<p class='no'>{escape(d.phase)}: {escape(d.why)}</p>" if d.why else "",
        f"<div class='figures'>{boxes}</div><div class='charts'>{_charts(d)}</div><div class='cols'><div>",
        "<h3>Promised and found</h3>",
        _checks(d),
        "<h3>What broke</h3>",
        _list(d.faults),
        "<h3>What users saw</h3>",
        _list(
            [
                f"{d.users.requests} requests, {d.users.lost} missed their objective"
                if d.users.requests
                else "they cannot be asked on this mesh",
                *(f"{n} × {k}" for k, n in d.users.kinds),
            ]
        ),
        "</div><div><h3>What happened</h3>",
        _moments(d.moments),
        "<h3>What the agent did</h3>",
        _list(d.actions or ("nothing",)),
        "</div></div>",
        *(_case(case) for case in d.cases),
        f"<p class='sub'>Steady state: {escape(d.steady)}.</p></section>",
    ]
    return "".join(parts)


def _charts(d: Told) -> str:
    around = scene((*d.served, *d.errors, *d.latency, *d.traffic), markers(d), d.lasted_s)
    low = min((v for s in d.served for v in s.values if v is not None), default=0.0)
    bottom = _HALF if low > _HALF else 0.0
    drawn = (
        Chart("Users: share of requests that were good", d.served, _percent, 1.0, 1.0, bottom),
        Chart("Errors by service, as its callers see them", d.errors, _percent, 0.02, 1.0),
        Chart("Latency by service (p99)", d.latency, _milliseconds, 0.04),
        Chart("Traffic by service (requests per second)", d.traffic, _plain, 10.0),
    )
    return "".join(f"<div>{svg(chart, around)}</div>" for chart in drawn if chart.lines)


def _checks(d: Told) -> str:
    rows = "".join(
        f"<tr><td class='{'ok' if c.ok else 'no'}'>{'√' if c.ok else '×'}</td><td class='name'>{escape(c.name)}</td>"
        f"<td>{escape(c.wanted)}</td><td class='{'' if c.ok else 'no'}'>{escape(c.found)}</td></tr>"
        for c in d.checks
    )
    return f"<table><tr><th></th><th></th><th>promised</th><th>found</th></tr>{rows}</table>"


def _moments(moments: Iterable[Moment]) -> str:
    rows = "".join(
        f"<tr><td class='n'>{m.at:+.2f} s</td><td>{escape(m.kind)}</td><td>{escape(m.text)}</td></tr>" for m in moments
    )
    return f"<table>{rows}</table>"


def _case(case: Case) -> str:
    lines = [
        *(["Evidence", *(f"  {e}" for e in case.evidence)] if case.evidence else []),
        *(["Cause", *(f"  {c}" for c in case.causes)] if case.causes else []),
        *(["Playbooks", *(f"  {c}" for c in case.considered)] if case.considered else []),
        *(["Action", *(f"  {a}" for a in case.actions)] if case.actions else []),
        "Story",
        *(f"  {m.at:+7.2f} s  {m.kind:10}  {m.text}" for m in case.story),
    ]
    title = f"Incident {case.name}: {case.title}, {case.stage}"
    return f"<details><summary>{escape(title)}</summary><pre>{escape(chr(10).join(lines))}</pre></details>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _badge(d: Told) -> str:
    return "<span class='badge'>passed</span>" if d.passed else "<span class='badge bad'>failed</span>"


def _lost(d: Told) -> str:
    return f"{d.users.lost} of {d.users.requests}" if d.users.requests else "–"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.0f} ms"


def _plain(value: float) -> str:
    return f"{value:.0f}"
