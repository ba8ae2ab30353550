"""Write systemd/monitoring/: Grafana dashboards, Prometheus' rules and what it scrapes: `make monitoring`.

Everything is described once, in `monitoring_panels` and `monitoring_rules`: what a panel shows and what an
alert looks at name the same metrics, and tests/monitoring holds both against a real Prometheus that scrapes a
running server. docs/monitoring.md has the runbook that alerts link to.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))

from monitoring_panels import DASHBOARDS, Panel  # noqa: E402
from monitoring_rules import alerts, recordings  # noqa: E402

FOLDER = Path("systemd/monitoring")


def dashboard(name: str) -> dict[str, object]:
    """A dashboard as Grafana imports it."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"realtime-{name}",
        "title": title,
        "tags": ["realtime"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["realtime"], "title": "realtime", "keepTime": True}],
        "templating": {"list": [*variables()]},
        "panels": [drawn(panel, number) for number, panel in enumerate(panels)],
    }


def variables() -> Iterator[dict[str, object]]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    yield {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    yield {
        "name": "job",
        "type": "query",
        "datasource": source,
        "query": "label_values(realtime_info, job)",
        "refresh": 2,
        "label": "Job",
    }
    yield {
        "name": "instance",
        "type": "query",
        "datasource": source,
        "query": 'label_values(realtime_info{job="$job"}, instance)',
        "refresh": 2,
        "label": "Worker",
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def drawn(panel: Panel, number: int) -> dict[str, object]:
    """A panel as Grafana has it: three a row."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    steps = [{"color": "green", "value": None}, *({"color": "red", "value": line} for line in panel.lines)]
    shown = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
    if panel.lines:
        shown["thresholdsStyle"] = {"mode": "dashed"}
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": source,
        "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0 if panel.kind == "timeseries" and "signal" not in panel.title else None,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": shown if panel.kind == "timeseries" else {},
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}}
        if panel.kind == "timeseries"
        else {},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": source,
                "expr": expression,
                "legendFormat": legend or panel.title,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            }
            for place, (expression, legend) in enumerate(panel.targets)
        ],
    }


def rules() -> dict[str, object]:
    """The rules as Prometheus reads them."""
    recorded = [{"record": name, "expr": expression} for name, expression in recordings()]
    told = [
        {
            "alert": each.name,
            "expr": each.expression,
            "for": each.lasts,
            "labels": {"severity": each.severity},
            "annotations": {"summary": each.says, "runbook": each.runbook},
        }
        for each in alerts()
    ]
    return {
        "groups": [
            {"name": "realtime-recordings", "rules": recorded},
            {"name": "realtime-alerts", "rules": told},
        ]
    }


def scraping() -> dict[str, object]:
    """A configuration for two workers of one supervisor, to begin with."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": "realtime",
                "static_configs": [{"targets": ["127.0.0.1:9101", "127.0.0.1:9102"]}],
            },
            {
                "job_name": "realtime-supervisor",
                "static_configs": [{"targets": ["127.0.0.1:9100"]}],
                "metric_relabel_configs": [
                    {
                        "source_labels": ["__name__"],
                        "regex": "realtime_(worker_.*|supervised_workers|autoscale_.*)",
                        "action": "keep",
                    }
                ],
            },
        ],
    }


# ---------------------------------------------------------------- YAML


def yaml(value: object, indent: int = 0) -> Iterator[str]:
    """Lines of YAML for dicts, lists, strings and numbers; strings as JSON has them, which YAML 1.2 reads."""
    pad = "  " * indent
    if isinstance(value, dict):
        for name, each in value.items():
            if isinstance(each, dict | list) and each:
                yield f"{pad}{name}:"
                yield from yaml(each, indent + 1)
            else:
                yield f"{pad}{name}: {json.dumps(each, ensure_ascii=False)}"
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, dict):
                first, *rest = yaml(each, indent + 1)
                yield f"{pad}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{pad}- {json.dumps(each, ensure_ascii=False)}"


RULES_HEAD = """\
# Written by `make monitoring` from scripts/monitoring.py. Change it there.
# Recording and alert rules of realtime; docs/monitoring.md says what to do about each alert.
"""
SCRAPE_HEAD = """\
# Written by `make monitoring` from scripts/monitoring.py. Change it there.
# Each worker has an address of its own: `admin_port` = 9101 is that of the first, 9102 that of the second.
# The supervisor's, `metrics_port` = 9100, adds them all up; of that only what it alone knows is kept here, or
# every message would count twice. Who scrapes the supervisor alone calls that job `realtime` and keeps all.
"""


def pages() -> dict[Path, str]:
    """What there is to be, by its path in the repository."""
    made = {
        FOLDER / "grafana" / f"{name}.json": json.dumps(dashboard(name), indent=1) + "\n"
        for name in DASHBOARDS
    }
    made[FOLDER / "rules.yml"] = RULES_HEAD + "".join(f"{line}\n" for line in yaml(rules()))
    made[FOLDER / "prometheus.yml"] = SCRAPE_HEAD + "".join(f"{line}\n" for line in yaml(scraping()))
    return made


def main() -> int:
    """Write every file that differs, and say which."""
    for name, text in pages().items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
