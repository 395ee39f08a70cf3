"""What a node shows in the editor: saved pictures, previews, text. Pictures are written whole
or not at all, and carry the prompt and the workflow they came from."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from kontext_core.errors import InputError
from kontext_core.partial import whole_file
from kontext_core.reading import srgb_profile

from .. import runtime
from .nodes import ComfyNode
from .widgets import FolderType


class SavedResult(dict):
    """A file that a node wrote: {filename, subfolder, type}, as messages carry it."""

    def __init__(self, filename: str, subfolder: str, type: FolderType) -> None:
        super().__init__(filename=filename, subfolder=subfolder, type=type.value)


class SavedImages:
    """Pictures that a node saved."""

    def __init__(self, results: list[SavedResult]) -> None:
        self.results = results

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.results}


def to_pil(image: Any) -> PILImage.Image:
    """A tensor [h, w, 3|4] in 0..1 as a picture; values are cut off, not rounded, as in ComfyUI."""
    values = image.detach().float().cpu().numpy() * 255.0
    return PILImage.fromarray(np.clip(values, 0, 255).astype(np.uint8))


class ImageSaveHelper:
    """Writes pictures as numbered PNG files."""

    @staticmethod
    def _metadata(cls: type[ComfyNode] | None) -> PngInfo:
        info = PngInfo()
        if cls is not None:
            if cls.hidden.prompt:
                info.add_text("prompt", json.dumps(cls.hidden.prompt))
            for key, value in (cls.hidden.extra_pnginfo or {}).items():
                info.add_text(key, json.dumps(value))
        return info

    @staticmethod
    def save_images(
        images: Any,
        filename_prefix: str,
        folder_type: FolderType,
        cls: type[ComfyNode] | None,
        compress_level: int = 4,
    ) -> list[SavedResult]:
        """Saves a batch [b, h, w, c]. With `cls`, the files carry its prompt and workflow."""
        folders = runtime.current().folders
        height, width = images.shape[1:3]
        kind = FolderType(folder_type)
        folder, name, counter = folders.next_save(filename_prefix, kind.value, width, height)
        subfolder = folder.relative_to(folders.by_kind(kind.value).resolve()).as_posix()
        subfolder = "" if subfolder == "." else subfolder
        info = ImageSaveHelper._metadata(cls)
        results = []
        for number, image in enumerate(images):
            start = name.replace("%batch_num%", str(number))
            target = folder / f"{start}_{counter + number:05}_.png"
            try:
                with whole_file(target) as file:
                    to_pil(image).save(
                        file, "PNG", pnginfo=info, compress_level=compress_level,
                        icc_profile=srgb_profile(),
                    )  # fmt: skip
            except OSError as error:
                raise InputError(
                    f"can't write {target} ({error}); free some space or save elsewhere"
                ) from error
            results.append(SavedResult(target.name, subfolder, kind))
        return results

    @staticmethod
    def get_save_images_ui(
        images: Any, filename_prefix: str, cls: type[ComfyNode] | None, compress_level: int = 4
    ) -> SavedImages:
        """Saves a batch to the output folder and returns what the node shows."""
        saved = ImageSaveHelper.save_images(
            images, filename_prefix, FolderType.output, cls, compress_level
        )
        return SavedImages(saved)


class PreviewImage:
    """Pictures shown in the node, kept in the temp folder."""

    def __init__(
        self, image: Any, animated: bool = False, cls: type[ComfyNode] | None = None, **_: Any
    ) -> None:
        # A fresh name per preview: the browser would show a cached picture otherwise.
        prefix = "ComfyUI_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))
        self.values = ImageSaveHelper.save_images(image, prefix, FolderType.temp, cls, 1)
        self.animated = animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    """A mask [b, h, w] shown in the node."""

    def __init__(
        self, mask: Any, animated: bool = False, cls: type[ComfyNode] | None = None, **_: Any
    ) -> None:
        flat = mask.reshape(-1, mask.shape[-2], mask.shape[-1], 1)
        super().__init__(flat.expand(-1, -1, -1, 3), animated, cls)


class PreviewText:
    """A text shown in the node."""

    def __init__(self, value: str, **_: Any) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}
