"""Routes that start, stop and look at runs: prompt, queue, history, jobs, interrupt, free."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from typing import Any

from aiohttp import web
from msgspec import UNSET

from ..bodies import CancelBody, FreeBody, InterruptBody, ListBody, PromptBody
from ..comfy_api.nodes import ComfyNode
from ..engine import Job
from ..errors import BodyError, ValidationError
from ..tasks import TaskQueue
from ..validation import validate
from .answers import json_body, json_object, json_response
from .hub import ClientListener, Hub
from .jobs import STATES, all_jobs, one_job


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} must be a whole number, got {text!r}") from None


class RunRoutes:
    """Everything about runs."""

    def __init__(self, nodes: dict[str, type[ComfyNode]], tasks: TaskQueue, hub: Hub) -> None:
        self.nodes, self.tasks, self.hub = nodes, tasks, hub
        self._numbers = itertools.count()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/prompt", self.get_prompt),
            web.post("/prompt", self.post_prompt),
            web.get("/queue", self.get_queue),
            web.post("/queue", self.post_queue),
            web.post("/interrupt", self.post_interrupt),
            web.post("/free", self.post_free),
            web.get("/history", self.get_history),
            web.get("/history/{prompt_id}", self.get_one_history),
            web.post("/history", self.post_history),
            web.get("/jobs", self.get_jobs),
            web.post("/jobs/cancel", self.cancel_jobs),
            web.get("/jobs/{job_id}", self.get_job),
            web.post("/jobs/{job_id}/cancel", self.cancel_job),
        ]

    def status(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self.tasks.remaining()}}

    async def get_prompt(self, request: web.Request) -> web.Response:
        return json_response(self.status())

    async def post_prompt(self, request: web.Request) -> web.Response:
        body = await json_body(request, PromptBody)
        if body.prompt is UNSET:
            raise BodyError("no_prompt", "No prompt provided", "No prompt provided")
        prompt_id = body.prompt_id or str(uuid.uuid4())
        if not _is_uuid(prompt_id):
            raise BodyError("invalid_prompt_id", "prompt_id must be a valid UUID", prompt_id[:80])
        try:
            # In a thread, with a loop of its own: nodes look at files, and graphs may be large.
            checked = await asyncio.to_thread(
                asyncio.run, validate(body.prompt, self.nodes, body.partial_execution_targets)
            )
        except ValidationError as error:
            answer = {"error": error.error, "node_errors": error.node_errors}
            return json_response(answer, status=400)
        extra_data = body.extra_data or {}
        if body.client_id is not None:
            extra_data["client_id"] = body.client_id
        extra_data["create_time"] = int(time.time() * 1000)
        number = float(next(self._numbers)) if body.number is None else body.number
        if body.front and body.number is None:
            number = -number
        job = Job(prompt_id, body.prompt, checked.outputs, extra_data)
        self.tasks.put(number, job, ClientListener(self.hub, body.client_id))
        return json_response(
            {"prompt_id": prompt_id, "number": number, "node_errors": checked.node_errors}
        )

    async def get_queue(self, request: web.Request) -> web.Response:
        running, waiting = self.tasks.snapshot()
        return json_response(
            {
                "queue_running": [task.as_list() for task in running],
                "queue_pending": [task.as_list() for task in waiting],
            }
        )

    async def post_queue(self, request: web.Request) -> web.Response:
        body = await json_body(request, ListBody)
        if body.clear:
            self.tasks.remove()
        for prompt_id in body.delete or []:
            self.tasks.remove(prompt_id)
        return web.Response()

    async def post_interrupt(self, request: web.Request) -> web.Response:
        body = await json_body(request, InterruptBody)
        self.tasks.interrupt(body.prompt_id)
        return web.Response()

    async def post_free(self, request: web.Request) -> web.Response:
        body = await json_body(request, FreeBody)
        if body.unload_models or body.free_memory:
            self.tasks.free()
        return web.Response()

    async def get_history(self, request: web.Request) -> web.Response:
        count, offset = _number(request, "max_items"), _number(request, "offset")
        items = list(self.tasks.history.items())
        if offset is None or offset < 0:
            offset = max(0, len(items) - count) if count is not None else 0
        stop = None if count is None else offset + count
        # Ten thousand runs are many megabytes.
        return await asyncio.to_thread(json_object, items[offset:stop])

    async def get_one_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        item = self.tasks.history.get(prompt_id)
        return json_response({} if item is None else {prompt_id: item})

    async def post_history(self, request: web.Request) -> web.Response:
        body = await json_body(request, ListBody)
        if body.clear:
            self.tasks.history.clear()
        for prompt_id in body.delete or []:
            self.tasks.history.pop(prompt_id, None)
        return web.Response()

    async def get_jobs(self, request: web.Request) -> web.Response:
        jobs = await asyncio.to_thread(all_jobs, self.tasks)
        wanted = [s for s in request.query.get("status", "").lower().split(",") if s]
        unknown = sorted(set(wanted) - set(STATES))
        if unknown:
            text = (
                f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(STATES)}"
            )
            return json_response({"error": text}, status=400)
        if wanted:
            jobs = [job for job in jobs if job["status"] in wanted]
        workflow = request.query.get("workflow_id")
        if workflow:
            jobs = [job for job in jobs if job.get("workflow_id") == workflow]
        if request.query.get("sort_order", "desc").lower() == "asc":
            jobs.reverse()
        limit, offset = _number(request, "limit"), max(0, _number(request, "offset") or 0)
        if limit is not None and limit <= 0:
            return json_response({"error": "limit must be a positive integer"}, status=400)
        page = jobs[offset : None if limit is None else offset + limit]
        pagination = {
            "offset": offset,
            "limit": limit,
            "total": len(jobs),
            "has_more": offset + len(page) < len(jobs),
        }
        return json_response({"jobs": page, "pagination": pagination})

    async def get_job(self, request: web.Request) -> web.Response:
        job = one_job(self.tasks, request.match_info["job_id"])
        if job is None:
            return json_response({"error": "Job not found"}, status=404)
        return json_response(job)

    def _cancel(self, prompt_id: str) -> bool:
        return self.tasks.remove(prompt_id) or self.tasks.interrupt(prompt_id)

    async def cancel_job(self, request: web.Request) -> web.Response:
        return json_response({"cancelled": self._cancel(request.match_info["job_id"])})

    async def cancel_jobs(self, request: web.Request) -> web.Response:
        ids = (await json_body(request, CancelBody)).job_ids
        return json_response({"cancelled": any([self._cancel(i) for i in ids])})


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
