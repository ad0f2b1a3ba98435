"""A failed run is told, in one sentence and without the address that may hold a secret."""

import io
import json
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.orchestration import alerts
from gluscope_assets.orchestration.alerts import (
    WEBHOOK_VARIABLE,
    WEBSERVER_VARIABLE,
    alert_of,
    failure_alert_sensor,
    post_alert,
)
from gluscope_assets_tests.support.failing import failing


class Webhook(BaseHTTPRequestHandler):
    """Answers with the status that the path names, after noting what was posted."""

    posted: list[dict[str, str]]

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append(json.loads(content))
        if self.path.startswith("/slow"):
            time.sleep(1)
        self.send_response(int(self.path.rsplit("/", 1)[1]))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def webhook(path: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a webhook, and what it will have been sent."""
    handler = type("Handler", (Webhook,), {"posted": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{path}", handler.posted
        finally:
            server.shutdown()
            thread.join()


def failed_run(instance: dg.DagsterInstance, tags: dict[str, str] | None = None) -> dg.RunFailureSensorContext:
    """What the sensor is called with when bad input has ended a run."""
    result = dg.materialize(
        [failing([InputError("the study has no such layer; choose another.")] * 2, [])],
        instance=instance,
        raise_on_error=False,
        tags=tags,
    )
    context = dg.build_run_status_sensor_context(
        sensor_name="failure_alerts",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    )
    return context.for_run_failure()


def test_a_failed_run_is_told(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBSERVER_VARIABLE, "https://dagster.example/")
    tags = {"dagster/asset_partition_range_start": "a|00", "dagster/asset_partition_range_end": "a|03"}
    context = failed_run(instance, tags)
    with webhook("secret/200") as (address, posted):
        monkeypatch.setenv(WEBHOOK_VARIABLE, address)
        failure_alert_sensor()(context)
    run = context.dagster_run.run_id
    link = f"https://dagster.example/runs/{run}"
    assert posted == [
        {
            "text": f"GLUScope: tiny/stage (a|00 to a|03) failed: the study has no such layer; choose another. {link}",
            "study": "tiny",
            "run": run,
            "asset": "tiny/stage",
            "partition": "a|00 to a|03",
            "error": "the study has no such layer; choose another.",
            "link": link,
        }
    ]


def test_a_killed_run_is_told(instance: dg.DagsterInstance) -> None:
    """No step has failed: only the run's own event says why it ended."""
    run = dg.materialize([failing([], [])], instance=instance).dagster_run
    event = instance.report_run_failed(run, "Run worker was killed.\nExit code -9")
    context = dg.build_run_status_sensor_context("failure_alerts", event, instance, run).for_run_failure()
    alert = alert_of(context)
    assert (alert["asset"], alert["partition"], alert["error"]) == (None, None, "Run worker was killed.")


@pytest.mark.parametrize("path", ["secret/500", "secret/404", "slow/secret/200", "unreachable"])
def test_an_alert_that_fails_says_so_and_never_shows_the_address(
    path: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "ALERT_SECONDS", 0.2)
    context = failed_run(instance)
    with webhook(path) as (address, _):
        monkeypatch.setenv(WEBHOOK_VARIABLE, "http://127.0.0.1:1/secret" if path == "unreachable" else address)
        with pytest.raises(RuntimeError, match="did not take the alert") as raised:
            post_alert(alert_of(context))
    text = io.StringIO()
    traceback.print_exception(raised.value, file=text)
    assert "secret" not in text.getvalue()
    assert "127.0.0.1" not in text.getvalue()


@pytest.mark.parametrize("address", ["file:///secret", "hooks.example/secret", "http://[secret", "https://host:secret/"])
def test_an_address_that_is_none_is_not_shown(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, address)
    with pytest.raises((InputError, RuntimeError)) as raised:
        post_alert({})
    assert "secret" not in "".join(traceback.format_exception(raised.value))


def test_the_sensor_is_stopped_where_there_is_no_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    assert failure_alert_sensor().default_status == dg.DefaultSensorStatus.STOPPED
    monkeypatch.setenv(WEBHOOK_VARIABLE, "https://hooks.example/secret")
    assert failure_alert_sensor().default_status == dg.DefaultSensorStatus.RUNNING
    assert "secret" not in str(vars(failure_alert_sensor()))
