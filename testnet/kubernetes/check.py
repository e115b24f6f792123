#!/usr/bin/env python3
"""Checks the manifests here without a cluster: the schemas of Kubernetes, and that they fit each other.

    testnet/kubernetes/check.py        takes the PyPI packages `kubernetes-validate` and `PyYAML`
"""

import pathlib
import sys

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).parent
VERSION = "1.30"


def main() -> int:
    listed = yaml.safe_load((HERE / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in HERE.glob("*.yaml")} - {"kustomization.yaml"}
    problems = [f"kustomization.yaml and the files differ: {name}" for name in there ^ set(listed)]
    found = [(name, document) for name in listed for document in yaml.safe_load_all((HERE / name).read_text())]
    for name, document in found:
        problems += [f"{name}: {error}" for error in schema_errors(document)]
    problems += misfits([document for _, document in found])
    print("\n".join(problems) or f"{len(found)} objects are valid for Kubernetes {VERSION}, and fit each other")
    return 1 if problems else 0


def schema_errors(document: dict) -> list[str]:
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{document['kind']} {document['metadata']['name']}: {error.message}"]
    return []


def misfits(documents: list[dict]) -> list[str]:
    """What schemas do not see: selectors that select nothing, and pods that the policies forget."""
    workloads = [document for document in documents if document["kind"] in ("StatefulSet", "Deployment")]
    pods = [workload["spec"]["template"]["metadata"]["labels"] for workload in workloads]
    problems = []
    for workload, labels in zip(workloads, pods):
        if not workload["spec"]["selector"]["matchLabels"].items() <= labels.items():
            problems.append(f"{workload['metadata']['name']} does not select its own pods")
    for document in documents:
        for selector in selectors(document):
            if not any(selects(selector, labels) for labels in pods):
                problems.append(f"{document['kind']} {document['metadata']['name']} selects no pod: {selector}")
    services = {document["metadata"]["name"] for document in documents if document["kind"] == "Service"}
    problems += [f"there is no service {w['spec']['serviceName']}" for w in workloads
                 if w["kind"] == "StatefulSet" and w["spec"]["serviceName"] not in services]
    policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    if not any(p["podSelector"] == {} and set(p["policyTypes"]) == {"Ingress", "Egress"} and len(p) == 2 for p in policies):
        problems.append("no policy refuses what the others do not allow")
    leaving = [labels["app"] for labels in pods if any(
        selects(p["podSelector"], labels) and "ipBlock" in peer
        for p in policies for rule in p.get("egress", []) for peer in rule["to"])]
    if leaving != ["exit"]:
        problems.append(f"these may leave: {leaving}")
    return problems + wrong_visitors(pods, policies) + wrong_ports(workloads, policies)


def wrong_visitors(pods: list[dict], policies: list[dict]) -> list[str]:
    """Who else than exits reaches `web`, and who else than nodes reaches nodes."""
    problems = []
    for host in pods:
        peers = [peer for p in policies if selects(p["podSelector"], host)
                 for rule in p.get("ingress", []) for peer in rule["from"]]
        if any("podSelector" not in peer or len(peer) > 1 for peer in peers):
            problems.append(f"{host['app']} is reached from elsewhere than this namespace")
        visitors = {pod["app"] for pod in pods for peer in peers if selects(peer.get("podSelector", {}), pod)}
        nodes = {pod["app"] for pod in pods if pod.get("network") == "tunic"}
        expected = {"web": {"exit"}, "client": set()}.get(host["app"], nodes)
        if visitors != expected:
            problems.append(f"{host['app']} is reached by {sorted(visitors)}, not {sorted(expected)}")
    return problems


def wrong_ports(workloads: list[dict], policies: list[dict]) -> list[str]:
    """Ports that policies open and no container has, and the other way round."""
    problems = []
    for policy in policies:
        sides = [(policy["podSelector"], rule) for rule in policy.get("ingress", [])]
        sides += [(peer["podSelector"], rule) for rule in policy.get("egress", [])
                  for peer in rule["to"] if "podSelector" in peer and "ports" in rule]
        for selector, rule in sides:
            opened, there = {port["port"] for port in rule["ports"]}, ports_of(workloads, selector)
            if opened != there:
                problems.append(f"a policy opens {sorted(opened)}, and the containers that it is for have {sorted(there)}")
    return problems


def ports_of(workloads: list[dict], selector: dict) -> set[int]:
    """The ports of the containers that are selected."""
    templates = [workload["spec"]["template"] for workload in workloads]
    return {port["containerPort"] for template in templates if selects(selector, template["metadata"]["labels"])
            for container in template["spec"]["containers"] for port in container.get("ports", [])}


def selectors(document: dict) -> list[dict]:
    spec = document.get("spec", {})
    if document["kind"] == "Service":
        return [{"matchLabels": spec["selector"]}]
    if document["kind"] != "NetworkPolicy":
        return []
    peers = [peer for rule in spec.get("egress", []) for peer in rule["to"]]
    peers += [peer for rule in spec.get("ingress", []) for peer in rule["from"]]
    return [spec["podSelector"]] + [peer["podSelector"] for peer in peers if "podSelector" in peer]


def selects(selector: dict, labels: dict) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions)


if __name__ == "__main__":
    sys.exit(main())
