"""Alerts: whom a failed run tells, and what.

How errors are judged belongs to `retries`; which runs are started again, to `deployment/`.
"""

import http.client
import json
import os
import urllib.error
import urllib.request

import dagster as dg

from gluscope_assets.core.errors import InputError
from gluscope_assets.orchestration.partitions import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG

WEBHOOK_VARIABLE = "GLUSCOPE_ALERT_WEBHOOK"
"""The environment variable with the address that failed runs are told to. It may hold a secret, so nothing ever shows it."""

WEBSERVER_VARIABLE = "GLUSCOPE_DAGSTER_URL"
"""The environment variable with the address of the Dagster UI as people reach it, for the links of alerts."""

ALERT_SECONDS = 10.0
"""How long a webhook may take to answer."""


def failure_alert_sensor() -> dg.SensorDefinition:
    """Posts each failed run to the address in $GLUSCOPE_ALERT_WEBHOOK; stopped where there is none."""
    running = bool(os.environ.get(WEBHOOK_VARIABLE))

    @dg.run_failure_sensor(
        name="failure_alerts",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description=f"Posts each failed run as JSON to the address in ${WEBHOOK_VARIABLE}.",
    )
    def failure_alerts(context: dg.RunFailureSensorContext) -> None:
        post_alert(alert_of(context))

    return failure_alerts


def alert_of(context: dg.RunFailureSensorContext) -> dict[str, str | None]:
    """What an alert says. `text`, the field that chat services show, holds all of it in one sentence."""
    run, failures = context.dagster_run, context.get_step_failure_events()
    study, asset = min((key.path[0] for key in run.asset_selection or ()), default=run.job_name), None
    if failures:
        # The key of an asset's step joins the parts of the asset's; a check's step has a name of its own.
        parent, _, stage = (failures[0].step_key or "").rpartition("__")
        study, asset = parent or study, "/".join(filter(None, (parent, stage)))
        error = _error_of(failures[0])
    else:
        error = _first_line(context.failure_event.message or "The run ended early.")
    ends = [run.tags[tag] for tag in (RANGE_START_TAG, RANGE_END_TAG) if tag in run.tags]
    partition = run.tags.get(PARTITION_TAG) or " to ".join(dict.fromkeys(ends)) or None
    link = f"{os.environ.get(WEBSERVER_VARIABLE, 'http://127.0.0.1:3000').rstrip('/')}/runs/{run.run_id}"
    where = f"{asset or study}{f' ({partition})' if partition else ''}"
    return {
        "text": f"GLUScope: {where} failed: {error} {link}",
        "study": study,
        "run": run.run_id,
        "asset": asset,
        "partition": partition,
        "error": error,
        "link": link,
    }


def _error_of(event: dg.DagsterEvent) -> str:
    """The sentence of a failed step: a Failure's own, or the first line of the innermost cause's message."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return _first_line(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return _first_line(error.message) if error is not None else "The step failed."


def post_alert(alert: dict[str, str | None]) -> None:
    """Post an alert to the webhook. What fails is told without the address, which may hold a secret."""
    address = os.environ.get(WEBHOOK_VARIABLE, "")
    if not address.startswith(("https://", "http://")):
        raise InputError(f"${WEBHOOK_VARIABLE} is no http or https address; set it where the code server runs.")
    try:
        request = urllib.request.Request(address, json.dumps(alert).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ALERT_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        reason = f"it answered {error.code}"
        error.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        # Their messages may quote the address.
        reason = type(error).__name__
    else:
        return
    raise RuntimeError(f"The webhook in ${WEBHOOK_VARIABLE} did not take the alert: {reason}.")


def _first_line(text: str) -> str:
    """The first line of a message."""
    return text.strip().partition("\n")[0].strip()
