"""`cluster/kubernetes/`: its manifests by the schemas of Kubernetes and of the operator, its commands as processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import jsonschema
import numpy as np
import pytest
import yaml
import zarr

from daskgmm import GaussianMixture
from daskgmm.cli.commands import gmm
from tests.conftest import S3_KEY
from tests.pods import COMMANDS, Manifest, Network, Pod, container, manifests, pod_specs

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="the extra 'test-clusters' brings kubernetes-validate"
)

FOLDER = Path(__file__).parents[1] / "cluster" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
#: The oldest version with a stable successPolicy, and the newest that the validator knows.
VERSIONS = ["1.33", kubernetes_validate.latest_version()]
OPERATOR = "dask-kubernetes==2026.3.0"
CRDS = "dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds"


def closed(schema: Any) -> Any:
    """A schema that takes no field that it does not name."""
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema:
        found["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        found.setdefault("additionalProperties", False)
    return found


@cache
def operators_schema(kind: str) -> tuple[str, Any]:
    """The operator's version and schema of a kind of resource, out of its wheel (which asks for more than tests do)."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, OPERATOR]
        if subprocess.run(pip, check=False, timeout=100).returncode:
            pytest.skip(f"pip cannot fetch {OPERATOR}, which has the schema of {kind}")
        (wheel,) = Path(folder).glob("*.whl")
        with ZipFile(wheel) as found:
            definition = yaml.safe_load(found.read(f"{CRDS}/{kind.lower()}.yaml"))
    (served,) = definition["spec"]["versions"]
    return f"{definition['spec']['group']}/{served['name']}", closed(served["schema"]["openAPIV3Schema"])


def validate(manifest: Manifest, version: str) -> None:
    """Validate a manifest: what Kubernetes knows by its schemas, what the operator knows by its own and its pods."""
    if manifest["apiVersion"] != "kubernetes.dask.org/v1":
        kubernetes_validate.validate(manifest, version, strict=True)
        return
    api, schema = operators_schema(manifest["kind"])
    assert manifest["apiVersion"] == api
    own = {key: value for key, value in manifest.items() if key not in {"apiVersion", "kind", "metadata"}}
    # (Not jsonschema.validate, which takes a second to find the schema itself in order.)
    jsonschema.Draft202012Validator(schema).validate(own)
    for spec in pod_specs(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": manifest["metadata"], "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": manifest["metadata"]}
    kubernetes_validate.validate({**service, "spec": manifest["spec"]["scheduler"]["service"]}, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path, version: str) -> None:
    for manifest in manifests(path):
        validate(manifest, version)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("cluster.yaml", ["spec", "worker"]),
        ("cluster.yaml", ["spec", "scheduler", "service"]),
        ("cluster.yaml", ["spec", "scheduler", "spec", "containers", 0, "readinessProbe", "httpGet"]),
        ("cronjob.yaml", ["spec", "jobTemplate", "spec", "podFailurePolicy"]),
        ("job.yaml", ["spec", "successPolicy"]),
    ],
)
def test_a_slip_of_the_pen_would_be_found(name: str, where: list[Any]) -> None:
    manifest = deepcopy(manifests(FOLDER / name)[-1])
    place = manifest
    for step in where:
        place = place[step]
    place["replcias"] = 3
    with pytest.raises(Exception, match="replcias"):
        validate(manifest, VERSIONS[-1])


def policies() -> Iterator[tuple[Manifest, Manifest]]:
    """Each podFailurePolicy, and the pod that it is for."""
    job, cron = manifests(FOLDER / "job.yaml")[-1], manifests(FOLDER / "cronjob.yaml")[-1]
    for spec in (job["spec"], cron["spec"]["jobTemplate"]["spec"]):
        yield spec["podFailurePolicy"], spec["template"]["spec"]


def test_what_may_pass_is_tried_again_and_what_may_not_is_not() -> None:
    documented = {int(code) for code in re.findall(r"\b(\d+) [a-z]", (gmm.help or "").partition("Exit codes")[2])}
    assert {0, 3, 64, 69, 75} <= documented
    for policy, pod in policies():
        assert pod["restartPolicy"] == "Never"
        ignored, failed = policy["rules"]
        assert (ignored["action"], failed["action"]) == ("Ignore", "FailJob")
        # (3 is no failure: the commands say so.)
        assert set(failed["onExitCodes"]["values"]) == documented - {0, 3, 69, 75}
        assert failed["onExitCodes"]["containerName"] in {one["name"] for one in pod["containers"]}
        assert "--accept-not-converged" in str(pod["containers"])


def test_pods_are_nobody_and_their_disk_is_closed() -> None:
    found = [spec for path in FILES for manifest in manifests(path) for spec in pod_specs(manifest)]
    assert len(found) == 4
    images = set()
    for spec in found:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["enableServiceLinks"] is False
        (one,) = spec["containers"]
        images.add(one["image"])
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert [mount["mountPath"] for mount in one["volumeMounts"]] == ["/tmp"]
        assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"]
    assert len(images) == 1  # one name to edit, and the same versions everywhere


def rows() -> np.ndarray:
    """Rows of no mixture in particular, a few partitions of them (see `COMMANDS`); (6000, 2), float64."""
    return np.random.default_rng(20261127).gamma(2.0, size=(6000, 2))


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Pods' network with an S3 service, and the rows in s3://my-bucket."""
    if os.geteuid() != 0 or not all(map(shutil.which, ["unshare", "nsenter", "ip"])):
        pytest.skip("only root has networks of its own, by unshare, nsenter and ip")
    pytest.importorskip("s3fs", reason="S3 needs s3fs: the extra 's3'")
    pytest.importorskip("moto.server", reason="the tests of S3 need moto[server]: the extra 'test'")
    names = ["s3", "fit-0.fit", "daskgmm-scheduler"]
    keys = {**S3_KEY, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://s3:5000"}
    network = Network(tmp_path, names, {**keys, "OPENBLAS_NUM_THREADS": "1"})
    try:
        network.start("s3", sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "5000")
        zarr.create_array(tmp_path / "rows.zarr", data=rows(), chunks=(1000, 2))
        bring = """
import s3fs, time
bucket = s3fs.S3FileSystem()
for attempt in range(100):
    try:
        bucket.mkdir("my-bucket")
        break
    except Exception:
        time.sleep(0.2)
bucket.put("rows.zarr", "my-bucket/rows.zarr", recursive=True)
"""
        network.run(sys.executable, "-c", bring)
        yield network
    finally:
        network.close()


def fetched(network: Network, name: str, folder: Path) -> GaussianMixture:
    """The model of that name in the bucket."""
    get = f"import s3fs; s3fs.S3FileSystem().get('my-bucket/models/{name}.zarr', 'fetched.zarr', recursive=True)"
    network.run(sys.executable, "-c", get)
    return GaussianMixture.load(folder / "fetched.zarr")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> GaussianMixture:
    """The model of the same rows by the same command, on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    zarr.create_array(folder / "rows.zarr", data=rows(), chunks=(1000, 2))
    command = [*COMMANDS["daskgmm"], "fit", "rows.zarr", "--components", "8", "--output", "local.zarr"]
    completed = subprocess.run([*command, "--workers", "1"], cwd=folder, capture_output=True, text=True, check=False)
    assert completed.returncode in {0, 3}, completed.stderr
    return GaussianMixture.load(folder / "local.zarr")


def assert_same_bits(a: GaussianMixture, b: GaussianMixture) -> None:
    assert a.means_.tobytes() == b.means_.tobytes()
    assert a.covariances_.tobytes() == b.covariances_.tobytes()


def result_of(pod: Pod) -> dict[str, Any]:
    """The result on stdout, which a pod's log holds beside the rest."""
    found: dict[str, Any] = json.loads(pod.log[pod.log.rindex("\n{") :])
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_cron_jobs_pod_on_the_lasting_cluster(
    network: Network, tmp_path: Path, undisturbed: GaussianMixture
) -> None:
    (cluster,), (cron,) = manifests(FOLDER / "cluster.yaml"), manifests(FOLDER / "cronjob.yaml")
    scheduler = network.start_container("scheduler", container(cluster, "scheduler"))
    added = {"DASK_WORKER_NAME": "daskgmm-default-1", "DASK_SCHEDULER_ADDRESS": "tcp://daskgmm-scheduler:8786"}
    network.start_container("worker", container(cluster, "worker"), environment=added)
    labels = {"batch.kubernetes.io/job-name": "nightly-29384720"}
    fit = network.start_container("fit", container(cron, "fit"), labels=labels)
    assert fit.wait(300) == 0, fit.log + scheduler.log
    assert result_of(fit)["output"] == "s3://my-bucket/models/nightly-29384720.zarr"
    probe = container(cluster, "scheduler")["readinessProbe"]["httpGet"]
    asked = f"import urllib.request as u; print(u.urlopen('http://daskgmm-scheduler:8787{probe['path']}').status)"
    assert network.run(sys.executable, "-c", asked) == "200\n"
    assert "name: daskgmm-default-1" in scheduler.log
    assert_same_bits(fetched(network, "nightly-29384720", tmp_path), undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_indexed_job_is_interrupted_and_goes_on(
    network: Network, tmp_path: Path, undisturbed: GaussianMixture
) -> None:
    main = container(manifests(FOLDER / "job.yaml")[-1], "main")

    def started(index: int, name: str) -> Pod:
        added = {"JOB_COMPLETION_INDEX": str(index)}
        return network.start_container(name, main, environment=added)

    workers = [started(index, f"worker-{index}") for index in (1, 2)]
    first = started(0, "first")
    first.wait_for(lambda: "Looking for a start" in first.log, timeout=200)
    first.send(signal.SIGTERM)  # what a drained node's pods get
    assert first.wait(60) == 75, first.log
    second = started(0, "second")  # (its scheduler has the port of the first, whose processes ended with it)
    assert second.wait(300) == 0, second.log + workers[0].log
    assert "Going on from" in second.log
    assert_same_bits(fetched(network, "fit", tmp_path), undisturbed)
    for worker in workers:
        assert worker.process.poll() is None, worker.log  # until the Job ends it
        worker.send(signal.SIGTERM)
        assert worker.wait(60) == 143, worker.log
