"""deploy/kubernetes/: an API server would take every document, and each keeps the promises of deploy/README.md."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.crds import complaint

FOLDER = ROOT / "deploy/kubernetes"
DOCUMENTS = {f"{file.name}:{document['kind']}/{document['metadata']['name']}": document
             for file in sorted(FOLDER.glob("*.yaml")) if file.name != "kustomization.yaml"
             for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))}
JOBS = {name: document for name, document in DOCUMENTS.items() if document["kind"] == "RayJob"}


def pods() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(document, role, template) of every pod that a manifest describes."""
    for name, document in DOCUMENTS.items():
        spec = document.get("spec", {})
        if "submitterPodTemplate" in spec:
            yield name, "submitter", spec["submitterPodTemplate"]
        ray = spec if document["kind"] == "RayCluster" else spec.get("rayClusterSpec") or spec.get("rayClusterConfig")
        if ray is not None:
            yield name, "head", ray["headGroupSpec"]["template"]
            yield from ((name, "worker", group["template"]) for group in ray["workerGroupSpecs"])


PODS = [pytest.param(role, template, id=f"{name}-{role}") for name, role, template in pods()]


def test_all_kinds_that_a_cluster_needs_are_there() -> None:
    kinds = [document["kind"] for document in DOCUMENTS.values()]
    assert {"RayCluster", "RayService", "NetworkPolicy", "PodMonitor", "PrometheusRule", "ServiceAccount"} < set(kinds)
    assert {job["spec"]["submissionMode"] for job in JOBS.values()} == {"K8sJobMode", "HTTPMode", "SidecarMode"}
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    applied_singly = {name.partition(":")[0] for name in DOCUMENTS} - set(listed)
    assert applied_singly == {"job-k8s.yaml", "job-http.yaml", "job-sidecar.yaml", "service.yaml"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_api_server_would_take_it(name: str) -> None:
    assert complaint(DOCUMENTS[name]) == ""


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a document has a field of an object, keys that people choose (labels, parameters) left out.

    Pods of a RayCluster are gone into once, in its own manifest: the others' are checked alike.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in {"labels", "matchLabels", "rayStartParams", "requests", "limits", "annotations",
                           "clusterSelector", "apiVersion", "kind"}:
                yield (*path, key)
                yield from places(value, (*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from places(value, (*path, number))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_slip_in_any_field_is_refused(name: str) -> None:
    taken = []
    for path in places(DOCUMENTS[name]):
        if DOCUMENTS[name]["kind"] != "RayCluster" and "template" in path[:-1]:
            continue
        mutant = copy.deepcopy(DOCUMENTS[name])
        inner = mutant
        for step in path[:-1]:
            inner = inner[step]
        inner[f"{path[-1]}s"] = inner.pop(path[-1])
        if complaint(mutant) == "":
            taken.append(path)
    assert taken == []


def test_a_wrong_type_and_an_unknown_mode_are_refused() -> None:
    for path, value in ((("spec", "submissionMode"), "SidecarsMode"), (("spec", "activeDeadlineSeconds"), "1h"),
                        (("spec", "clusterSelector"), ["moelab"])):
        mutant = copy.deepcopy(DOCUMENTS["job-http.yaml:RayJob/moelab-http"])
        mutant[path[0]][path[1]] = value
        assert path[1] in complaint(mutant)


# What is checked by the operator only, when it reads a RayJob


@pytest.mark.parametrize("name", JOBS)
def test_the_operator_would_not_refuse_the_job(name: str) -> None:
    spec = JOBS[name]["spec"]
    assert ("rayClusterSpec" in spec) != ("clusterSelector" in spec)
    if "ttlSecondsAfterFinished" in spec:
        assert spec["shutdownAfterJobFinishes"] is True
    if "clusterSelector" in spec:
        assert spec["submissionMode"] != "SidecarMode"
        assert "backoffLimit" not in spec
        named = DOCUMENTS["cluster.yaml:RayCluster/moelab"]["metadata"]["name"]
        assert spec["clusterSelector"] == {"ray.io/cluster": named}
    if spec["submissionMode"] == "SidecarMode":
        assert not {"submitterPodTemplate", "submitterConfig"} & set(spec)
        assert spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["restartPolicy"] == "Never"


# Promises


@pytest.mark.parametrize(("role", "template"), PODS)
def test_no_pod_is_root_writes_to_its_image_or_may_become_more(role: str, template: dict[str, Any]) -> None:
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "moelab"
    for container in spec["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}
        assert set(container["resources"]) == {"requests", "limits"}
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/cache"} <= mounted
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}
        if role != "submitter":
            assert {"/dev/shm", "/results"} <= mounted
            ports = {port["name"] for port in container["ports"]}
            for probe in ("readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["port"] in ports


def test_the_token_is_asked_for_everywhere_and_written_nowhere() -> None:
    for name, document in DOCUMENTS.items():
        spec = document.get("spec", {})
        ray = spec if document["kind"] == "RayCluster" else spec.get("rayClusterSpec") or spec.get("rayClusterConfig")
        if ray is not None:
            assert ray["authOptions"] == {"mode": "token", "secretName": "moelab-ray-token"}, name
    assert all(document["kind"] != "Secret" for document in DOCUMENTS.values())


def test_nothing_is_allowed_that_no_policy_names() -> None:
    policies = [document for document in DOCUMENTS.values() if document["kind"] == "NetworkPolicy"]
    deny = [policy for policy in policies if policy["spec"]["podSelector"] == {} and not {"ingress", "egress"}
            & set(policy["spec"])]
    assert [policy["spec"]["policyTypes"] for policy in deny] == [["Ingress", "Egress"]]
    for policy in policies:
        for rule in (*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())):
            peers = rule.get("from") or rule.get("to")
            assert peers, f"{policy['metadata']['name']} lets anybody in or out"
            assert all("ipBlock" not in peer for peer in peers)


def test_ports_of_probes_metrics_and_policies_are_ports_of_pods() -> None:
    numbers = {port["containerPort"]: port["name"] for _, role, template in pods() if role != "submitter"
               for container in template["spec"]["containers"] for port in container["ports"]}
    asked = {port["port"] for document in DOCUMENTS.values() if document["kind"] == "NetworkPolicy"
             for rule in document["spec"].get("ingress", ()) for port in rule.get("ports", ())}
    assert asked == {8000, 8080, 8265}
    assert {numbers[port] for port in asked} == {"serve", "metrics", "dashboard"}
    monitor = DOCUMENTS["monitoring.yaml:PodMonitor/moelab"]
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_versions_are_those_of_the_project() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
                if "==" in line)
    for name, document in DOCUMENTS.items():
        text = yaml.safe_dump(document)
        assert f"image: moelab:{version()}" in text or "image:" not in text, name
        assert f"rayVersion: {pins['ray']}" in text or "rayVersion" not in text, name


def version() -> str:
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
               if line.startswith("version = ")]
    return line.split('"')[1]
