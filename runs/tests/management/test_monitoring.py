"""The dashboard and the alerts use names that /metrics really has, and are files that their
programs can read."""

import json
import re
from typing import Any

import pytest
import yaml
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from runs.models import Host, RunStatus
from runs.services.claiming import claim_run
from runs.services.finishing import finish_run
from runs.tests.conftest import Script, Submit
from tunixrt.tests.plugin import ROOT

DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "deploy/grafana/dashboards/tunixrt.json").read_text()
)
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
EXPRESSIONS = {
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
    **{rule["alert"]: rule["expr"] for rule in RULES},
}
NAME = re.compile(r"\b(?:tunix|django)_[a-z_]+\b")
SELECTOR = re.compile(r"\b((?:tunix|django)_[a-z_]+)\{([^}]*)\}")
OURS_ELSEWHERE = {"up"}  # Prometheus's own


@pytest.fixture
def samples(
    local_client: Client, submit: Submit, scripted: Script
) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample of /metrics by its name, once there is a host and each kind of run
    has ended."""
    scripted()
    host = Host.objects.create(
        name="a-host", heartbeat_at="2026-01-01T00:00Z", canary_at="2026-01-01T00:00Z"
    )
    for status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.TIMEOUT):
        run = submit()
        claim_run(run=run, host=host, by="test")
        exit_code = 0 if status == RunStatus.COMPLETED else None
        finish_run(
            run=run,
            status=status,
            reason="over",
            by="test",
            exit_code=exit_code,
            duration_seconds=1.0,
        )
    local_client.get("/")
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(local_client.get("/metrics").content.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_every_name_of_dashboard_and_alerts_is_in_the_metrics(
    samples: dict[str, list[dict[str, str]]],
) -> None:
    used = {name: NAME.findall(expression) for name, expression in EXPRESSIONS.items()}
    assert all(
        names or set(re.findall(r"\w+", EXPRESSIONS[where])) & OURS_ELSEWHERE
        for where, names in used.items()
    )
    missing = {
        where: name for where, names in used.items() for name in names if name not in samples
    }
    assert missing == {}


def test_every_selected_label_has_the_value_somewhere(
    samples: dict[str, list[dict[str, str]]],
) -> None:
    checked = 0
    for expression in EXPRESSIONS.values():
        for name, selector in SELECTOR.findall(expression):
            for label, operator, pattern in re.findall(r'(\w+)(=~|=)"([^"]*)"', selector):
                values = {labels[label] for labels in samples[name]}
                for value in pattern.split("|") if operator == "=~" else [pattern]:
                    assert value in values, (name, label, value)
                    checked += 1
    assert checked > 4


def test_grouping_labels_exist(samples: dict[str, list[dict[str, str]]]) -> None:
    for expression in EXPRESSIONS.values():
        for labels, name in re.findall(
            r"sum by \((\w+)\) \(\w+\(((?:tunix|django)_\w+)", expression
        ):
            assert all(labels in sample for sample in samples[name]), name


def test_alerts_say_what_is_wrong_and_how_bad_it_is() -> None:
    assert {rule["alert"] for rule in RULES} >= {
        "TunixrtQueueStuck",
        "TunixrtWorkerDead",
        "TunixrtRunsFail",
        "TunixrtWritesSlow",
    }
    documented = (ROOT / "docs/operations.md").read_text()
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        assert f"| `{rule['alert']}` |" in documented


def test_prometheus_reads_the_rules_and_grafana_the_dashboard() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert prometheus["rule_files"] == ["/etc/prometheus/alerts.yml"]
    assert prometheus["scrape_configs"][0]["job_name"] == "tunixrt"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    target = prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0]
    assert target.split(":")[0] in compose["services"]
    assert compose["services"]["web"]["environment"]["ALLOWED_HOSTS"].endswith(
        f",{target.split(':')[0]}"
    )
    provider = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/dashboards/tunixrt.yml").read_text()
    )["providers"][0]
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
