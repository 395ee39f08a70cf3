"""comfy-api-simplified, a third-party Python client, drives every host unchanged."""

from __future__ import annotations

import io

import pytest
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from hosts import ROOT, Server
from PIL import Image


@pytest.fixture
def workflow() -> ComfyWorkflowWrapper:
    return ComfyWorkflowWrapper(str(ROOT / "workflows/api/two_references.json"))


def _title(workflow: ComfyWorkflowWrapper, class_type: str) -> str:
    """This client finds nodes by title, so every API workflow has to carry them."""
    [title] = [n["_meta"]["title"] for n in workflow.values() if n["class_type"] == class_type]
    return title


def saved_images(api: ComfyApiWrapper, workflow: ComfyWorkflowWrapper) -> list[bytes]:
    """The files of the Save Image node; previews come under names without a suffix."""
    images = api.queue_and_wait_images(workflow, _title(workflow, "SaveImage"))
    return [content for name, content in images.items() if name.endswith(".png")]


@pytest.mark.slow
def test_queue_and_wait_images(server: Server, workflow: ComfyWorkflowWrapper) -> None:
    workflow.set_node_param(_title(workflow, "KontextSampler"), "steps", 2)
    workflow.set_node_param(_title(workflow, "KontextSampler"), "seed", 301)
    api = ComfyApiWrapper(server.url)
    [content] = saved_images(api, workflow)
    assert min(Image.open(io.BytesIO(content)).size) >= 16


@pytest.mark.slow
def test_upload_image_then_use_it(server: Server, workflow: ComfyWorkflowWrapper) -> None:
    api = ComfyApiWrapper(server.url)
    picture = next(iter(sorted((ROOT / "workflows/input").glob("*.png"))))
    answer = api.upload_image(str(picture), subfolder="sent")
    assert answer["subfolder"] == "sent"
    titles = [n["_meta"]["title"] for n in workflow.values() if n["class_type"] == "LoadImage"]
    assert len(titles) == len(set(titles)) == 2
    workflow.set_node_param(titles[0], "image", f"{answer['subfolder']}/{answer['name']}")
    workflow.set_node_param(_title(workflow, "KontextSampler"), "steps", 2)
    workflow.set_node_param(_title(workflow, "KontextSampler"), "seed", 302)
    assert len(saved_images(api, workflow)) == 1
