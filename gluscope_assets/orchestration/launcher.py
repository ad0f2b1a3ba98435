"""The run launcher of a deployment with a code server: Dagster's own, which also notices runs that died with their server.

Dagster's launcher learns from the code server that a run was killed. Where the server was killed too, as a container is
with all its processes, nobody says so: the run counts as started for ever and keeps its slot of a pool. Nothing else
belongs here; it is named in `deployment/dagster.postgres.yaml`.
"""

from dagster import DefaultRunLauncher
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import GetCurrentRunsResult
from dagster._serdes import deserialize_value


class CodeServerRunLauncher(DefaultRunLauncher):
    """Runs in processes of the code server, which is asked whether it still has them."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        client = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN, "The run does not say which code server has it.")
        try:
            answer = deserialize_value(client.get_current_runs(), GetCurrentRunsResult)
        except DagsterUserCodeUnreachableError:
            # It may be starting, or only the network is down.
            return CheckRunHealthResult(WorkerStatus.RUNNING, "The code server does not answer.")
        if run.run_id in answer.current_runs:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "The code server was started again since and has no such run.")
