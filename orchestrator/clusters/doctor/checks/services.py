"""Checks of services: nodes reach MLflow and the data, and Ray requires a token."""

from __future__ import annotations

from orchestrator.clusters.doctor.facts import CheckResult, ClusterFacts
from orchestrator.clusters.doctor.words import join_names


class MlflowAccess:
    """Every node reaches the MLflow server, and may write to it."""

    name = "MLflow"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail with the reason why MLflow cannot be used."""
        if facts.mlflow_error:
            hint = "name a server that all nodes reach: track.uri=http://HOST:5000"
            return [CheckResult(self.name, "fail", facts.mlflow_error, hint)]
        sqlite = facts.mlflow.startswith("sqlite")
        if sqlite and len(facts.nodes) > 1:
            text = f"{len(facts.nodes)} nodes cannot write one sqlite file ({facts.mlflow})"
            hint = "start a server that all nodes reach and name it: track.uri=http://HOST:5000"
            return [CheckResult(self.name, "fail", text, hint)]
        cut_off = {n.name: n.mlflow_error for n in facts.nodes if n.mlflow_error}
        if cut_off:
            why = next(iter(cut_off.values()))
            text = f"{facts.mlflow} does not serve {join_names(cut_off)}: {why}"
            return [CheckResult(self.name, "fail", text, _hint(why))]
        served = f"{facts.mlflow}" if sqlite else f"{facts.mlflow} serves every node"
        return [CheckResult(self.name, "ok", served)]


def _hint(why: str) -> str:
    if "401" in why:
        return "set MLFLOW_TRACKING_USERNAME and _PASSWORD (or _TOKEN) in every node's environment"
    if "403" in why:
        return "start it with --allowed-hosts that name the address which nodes use"
    return "start it, or correct track.uri (MLFLOW_TRACKING_URI); nodes must reach its port"


class DatasetAccess:
    """Every node reads the same version of the data."""

    name = "data"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Fail for datasets that a node cannot read, or has another version of."""
        if facts.data_error:
            hint = "correct data.source: the driver's node must reach it too"
            return [CheckResult(self.name, "fail", facts.data_error, hint)]
        found = [finding for uri in facts.datasets for finding in self._check_dataset(uri, facts)]
        if found:
            return found
        parts = []
        if facts.datasets:
            digests = {n.digests[uri] for n in facts.nodes for uri in facts.datasets}
            parts.append(f"read alike on every node: digest {join_names(sorted(digests))}")
        if facts.unpacked_sources:
            parts.append(f"packed first by run: {join_names(facts.unpacked_sources)}")
        return [CheckResult(self.name, "ok", "; ".join(parts) or "no job that trains was named")]

    def _check_dataset(self, uri: str, facts: ClusterFacts) -> list[CheckResult]:
        failed = {n.name: n.data_errors[uri] for n in facts.nodes if uri in n.data_errors}
        if failed:
            why = next(iter(failed.values()))
            text = f"{uri} cannot be read on {join_names(failed)}: {why}"
            hint = "put it where every node reaches it (mount, s3://), or restore it and pack again"
            return [CheckResult(self.name, "fail", text, hint)]
        digests = {node.name: node.digests[uri] for node in facts.nodes}
        if len(set(digests.values())) < 2:
            return []
        each = join_names(f"{digest} on {name}" for name, digest in digests.items())
        text = f"{uri} is not the same everywhere: {each}"
        hint = "copy one version to all nodes, or name a place that they share"
        return [CheckResult(self.name, "fail", text, hint)]


class RayTokenRequired:
    """Ray requires a token: without one, anybody who reaches its ports can run code."""

    name = "token"

    def run(self, facts: ClusterFacts) -> list[CheckResult]:
        """Check that Ray requires a token. It accepted ours, or the nodes had not responded."""
        if all(node.requires_token for node in facts.nodes):
            return [CheckResult(self.name, "ok", "asked for, and ours is accepted")]
        if all(node.name.startswith("127.") for node in facts.nodes):
            return [
                CheckResult(self.name, "ok", "not asked for, on this machine's own addresses only")
            ]
        text = "Ray asks for none: whoever reaches its ports can run code on the nodes"
        hint = "start every node with RAY_AUTH_MODE=token and one token (ray get-auth-token)"
        return [CheckResult(self.name, "warn", text, hint)]
