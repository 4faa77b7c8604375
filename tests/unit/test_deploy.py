"""The files in deploy/ are valid for the programs that read them, and refer to things that exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prometheus_client.metrics_core import Metric
from support.deploy_files import COMPONENTS, DEPLOY, PROGRAM, UNITS, compose, compose_programs, unit_programs
from support.requirements import skip_or_fail

from db.health.ledger_metrics import LEDGER_FAMILIES
from pneumowatch import metrics
from pneumowatch.settings import ENV_PREFIX, SECRETS, Settings

KUBERNETES = DEPLOY / "kubernetes"
# of Debian's docker-compose
COMPOSE_SCHEMA = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")
METRIC = re.compile(r"\bpneumowatch_[a-z_]+")
LABELS = re.compile(r"(pneumowatch_[a-z_]+)\{([^}]*)\}")
OF_OTHERS = {"up"}


def tool(name: str) -> str:
    return shutil.which(name) or skip_or_fail(f"no {name} on PATH")


def documents(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text("utf-8"))


# systemd


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    verify = [tool("systemd-analyze"), "verify"]
    here = Path(sys.executable).parent
    for source in UNITS.rglob("*"):
        if source.is_file():
            target = tmp_path / source.relative_to(UNITS)
            target.parent.mkdir(exist_ok=True)
            target.write_text(source.read_text("utf-8").replace("/opt/pneumowatch/bin", str(here)), "utf-8")
    units = sorted(tmp_path.glob("*.service"))
    assert len(units) == len(COMPONENTS) + 1
    env = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run([*verify, *units], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_units_are_hardened_and_wait_for_the_drain() -> None:
    common = (UNITS / "pneumowatch-.service.d" / "common.conf").read_text("utf-8").splitlines()
    for line in ("ProtectSystem=strict", "NoNewPrivileges=yes", "Restart=on-failure", "ProtectHome=yes"):
        assert line in common
    (seconds,) = (line.partition("=")[2] for line in common if line.startswith("TimeoutStopSec="))
    assert int(seconds) > Settings().lease_seconds
    assert not any("URL=" in line and "FILE" not in line for line in common)


# both


@pytest.mark.parametrize("programs", [unit_programs(), compose_programs()], ids=["systemd", "compose"])
def test_what_is_set_is_a_setting(programs: dict[str, Any]) -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {
        f"{ENV_PREFIX}{one}_FILE" for one in SECRETS
    }
    assert {name for program in programs.values() for name in program.environment} <= known


def test_no_two_units_want_one_port() -> None:
    ports = [
        p.environment["PNEUMOWATCH_METRICS_PORT"] for n, p in unit_programs().items() if n not in ("work", "review")
    ]
    assert len(ports) == len(set(ports)) == 3


# compose


@pytest.mark.filterwarnings("ignore:The metaschema specified:DeprecationWarning")  # the schema's own, of some versions
def test_the_compose_file_is_one() -> None:
    if not COMPOSE_SCHEMA.exists():
        skip_or_fail("no schema of docker-compose")
    jsonschema.validate(compose(), json.loads(COMPOSE_SCHEMA.read_text("utf-8")))


def test_the_compose_file_names_what_is_there() -> None:
    whole = compose()
    for name, service in whole["services"].items():
        assert set(service.get("networks", [])) <= set(whole["networks"]), name
        assert set(service.get("secrets", [])) <= set(whole["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(whole["services"]), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            here = source.startswith("./") and (DEPLOY / source).exists()
            assert here or source in whole["volumes"] or source.startswith("${INBOXES_DIR"), volume
    assert whole["networks"]["inner"] == {"internal": True}
    for stored in ("redis", "postgres", "watch", "work", "training"):
        assert whole["services"][stored]["networks"] == ["inner"], stored
        assert "ports" not in whole["services"][stored]


def test_inboxes_are_only_read_but_by_the_receiver() -> None:
    for name, service in compose()["services"].items():
        mounts = [volume for volume in service.get("volumes", []) if "/inboxes/" in volume]
        assert name == "receiver" or all(volume.endswith(":ro") for volume in mounts), name


def test_the_receiver_says_nothing_of_patients() -> None:
    command = " ".join(compose()["services"]["receiver"]["command"])
    assert command.endswith("-ll critical")
    assert "-ll critical" in (UNITS / "pneumowatch-receiver.service").read_text("utf-8")


def test_the_secrets_that_are_named_are_made(tmp_path: Path) -> None:
    script = shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    for _ in range(2):  # again: nothing changes
        subprocess.run(["sh", script], check=True, capture_output=True)
    made = {path.name: path.read_text("utf-8").strip() for path in (tmp_path / "secrets").iterdir()}
    assert {f"secrets/{name}" for name in made} == {one["file"] for one in compose()["secrets"].values()}
    assert made["postgres_password"] in made["database_url"]
    assert made["redis_conf"].split()[1] in made["broker_url"]


def test_the_image_has_the_targets_and_no_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    stages = {line.split()[-1]: line.split()[1] for line in lines if line.startswith("FROM ")}
    wanted = {one["build"]["target"] for one in compose()["services"].values() if "build" in one}
    assert wanted == {"cpu", "gpu"} <= set(stages)
    assert all(stages[target] == "base" for target in wanted)
    assert "USER 10001:10001" in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            assert all((DEPLOY.parent / source).exists() for source in line.split()[1:-1]), line
    packages = {path.parent.name for path in DEPLOY.parent.glob("*/__init__.py") if path.parent.name != "tests"}
    assert all(f"COPY {package} {package}" in lines for package in packages)


# Kubernetes


def test_kubernetes_takes_the_manifests() -> None:
    kinds = []
    for document in documents(KUBERNETES / "base"):
        kinds.append(document["kind"])
        if document["apiVersion"].split("/")[0] not in ("kustomize.config.k8s.io", "keda.sh"):
            kubernetes_validate.validate(document, "1.30", strict=True)
    assert {"Deployment", "Job", "ScaledObject", "NetworkPolicy"} <= set(kinds)


@pytest.mark.parametrize("folder", ["base", "overlays/department"])
def test_kustomize_finds_what_it_names(folder: str) -> None:
    kustomization = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text("utf-8"))
    for name in kustomization["resources"] + [patch["path"] for patch in kustomization.get("patches", [])]:
        assert (KUBERNETES / folder / name).exists(), name
    names = {document["metadata"]["name"] for document in documents(KUBERNETES / "base") if "metadata" in document}
    for patch in kustomization.get("patches", []):
        assert yaml.safe_load((KUBERNETES / folder / patch["path"]).read_text("utf-8"))["metadata"]["name"] in names


def test_pods_run_what_units_run() -> None:
    deployments = {
        one["metadata"]["name"]: one for one in documents(KUBERNETES / "base") if one.get("kind") == "Deployment"
    }
    assert set(deployments) == set(COMPONENTS)
    for name, deployment in deployments.items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert tuple(container["args"]) == compose_programs()[name].words, name
        assert {mount["mountPath"]: mount.get("readOnly") for mount in container["volumeMounts"]}[
            "/inboxes/ward"
        ] is True


def test_keda_scales_by_images_that_wait() -> None:
    """KEDA's schema is not among Kubernetes' own: check the fields in use against its documentation."""
    (scaled,) = (one for one in documents(KUBERNETES / "base") if one["kind"] == "ScaledObject")
    spec = scaled["spec"]
    known = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "fallback"}
    assert set(spec) == known | {"triggers"}
    assert spec["scaleTargetRef"] == {"name": "work"}
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold", "activationThreshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert metrics.WAITING_SCANS.name in trigger["metadata"]["query"]


# Prometheus and Grafana


def exposed() -> dict[str, set[str]]:
    """Return {name of each exposed metric: its labels}."""
    found = {
        gauge.name: set(gauge.labels)
        for gauge in (*LEDGER_FAMILIES, metrics.BUILD_INFO, metrics.MODEL_INFO, metrics.WORK_DONE)
    }
    for collector in (metrics.IMAGES_PROCESSED, metrics.BATCH_IMAGES, metrics.STAGE_SECONDS):
        labels = set(collector._labelnames)
        (family,) = collector.describe()
        assert isinstance(family, Metric)
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}[family.type]
        found |= {family.name + ending: labels | ({"le"} if ending == "_bucket" else set()) for ending in endings}
    return found


def expressions() -> Iterator[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    for one in documents(KUBERNETES / "base"):
        if one["kind"] == "ScaledObject":
            yield one["spec"]["triggers"][0]["metadata"]["query"]


def panels() -> list[dict[str, Any]]:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "pneumowatch.json").read_text("utf-8"))
    found: list[dict[str, Any]] = board["panels"]
    return found


def test_rules_and_dashboard_speak_of_metrics_that_exist() -> None:
    known = exposed()
    for expression in expressions():
        names = set(METRIC.findall(expression))
        assert names <= set(known), expression
        assert names or OF_OTHERS & set(re.findall(r"\w+", expression)), expression
        for name, matchers in LABELS.findall(expression):
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= known[name], expression


def test_panels_stand_side_by_side() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in panels()})


def test_prometheus_takes_its_files() -> None:
    promtool = tool("promtool")
    for arguments in (("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml")):
        done = subprocess.run([promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))
    said = (DEPLOY.parent / "docs" / "operate" / "operations.md").read_text("utf-8")
    for rule in rules["groups"][0]["rules"]:
        assert f"`{rule['alert']}`" in said, rule["alert"]


def test_the_program_is_where_the_units_say() -> None:
    for unit in UNITS.glob("*.service"):
        (start,) = (line for line in unit.read_text("utf-8").splitlines() if line.startswith("ExecStart="))
        assert start.startswith((f"ExecStart={PROGRAM} ", "ExecStart=/opt/pneumowatch/bin/python -m pynetdicom "))
