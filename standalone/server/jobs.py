"""Queue and history as newer frontends ask for them: one list of jobs."""

from __future__ import annotations

from typing import Any

from ..tasks import QueuedTask, TaskQueue

STATES = ("pending", "in_progress", "completed", "failed", "cancelled")
FINAL_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _origin(extra_data: dict[str, Any]) -> dict[str, Any]:
    workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    return {"create_time": extra_data.get("create_time"), "workflow_id": workflow.get("id")}


def _queued(task: QueuedTask, state: str) -> dict[str, Any]:
    return _without_none(
        {
            "id": task.job.prompt_id,
            "status": state,
            "priority": task.number,
            "outputs_count": 0,
            "previewable_outputs_count": 0,
            **_origin(task.job.extra_data),
        }
    )


def _files(outputs: dict[str, Any]) -> list[dict[str, Any]]:
    """All files that nodes showed, with the node and the kind."""
    return [
        {**entry, "nodeId": node_id, "mediaType": kind}
        for node_id, shown in outputs.items()
        for kind, entries in shown.items()
        if isinstance(entries, (list, tuple))
        for entry in entries
        if isinstance(entry, dict)
    ]


def _finished(prompt_id: str, item: dict[str, Any], full: bool = False) -> dict[str, Any]:
    number, _, prompt, extra_data, _ = item["prompt"]
    status = item["status"]
    events = {event: data for event, data in status["messages"]}
    if status["status_str"] == "success":
        state = "completed"
    else:
        state = "cancelled" if "execution_interrupted" in events else "failed"
    end = next((events[event] for event in FINAL_EVENTS if event in events), {})
    files = _files(item["outputs"])
    saved = [entry for entry in files if entry.get("type") == "output"]
    job = _without_none(
        {
            "id": prompt_id,
            "status": state,
            "priority": number,
            "execution_start_time": events.get("execution_start", {}).get("timestamp"),
            "execution_end_time": end.get("timestamp"),
            "execution_error": events.get("execution_error"),
            "outputs_count": len(files),
            "previewable_outputs_count": sum(f["mediaType"] == "images" for f in files),
            "preview_output": (saved or files or [None])[0],
            **_origin(extra_data),
        }
    )
    if full:
        job["outputs"] = item["outputs"]
        job["execution_status"] = status
        job["workflow"] = {"prompt": prompt, "extra_data": extra_data}
    return job


def one_job(tasks: TaskQueue, prompt_id: str) -> dict[str, Any] | None:
    """A job with its outputs and workflow; None when there is no such job."""
    if prompt_id in tasks.history:
        return _finished(prompt_id, tasks.history[prompt_id], full=True)
    return next((job for job in all_jobs(tasks) if job["id"] == prompt_id), None)


def all_jobs(tasks: TaskQueue) -> list[dict[str, Any]]:
    """Every job, newest first."""
    running, waiting = tasks.snapshot()
    jobs = [_queued(task, "in_progress") for task in running]
    jobs += [_queued(task, "pending") for task in waiting]
    jobs += [_finished(key, item) for key, item in list(tasks.history.items())]
    return sorted(jobs, key=lambda job: job.get("create_time", 0), reverse=True)
