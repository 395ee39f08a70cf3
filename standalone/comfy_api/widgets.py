"""Inputs that the editor draws as widgets: numbers, texts, choices and switches.

Every kind spells out all its arguments, as ComfyUI's do: packs ask the signature what a host knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from .sockets import Custom, Input

__all__ = [
    "Boolean", "Combo", "ControlAfterGenerate", "Float", "FolderType", "Int", "NumberDisplay", "String",
    "UploadType", "WidgetInput",
]  # fmt: skip


class FolderType(str, Enum):
    """Where a file that a node reads or writes lies."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """Which kind of file a combo lets the user upload."""

    image = "image_upload"


class NumberDisplay(str, Enum):
    """How the editor draws a number."""

    number = "number"
    slider = "slider"


class ControlAfterGenerate(str, Enum):
    """What happens to a seed after each run."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class WidgetInput(Input):
    """An input that the editor shows as a widget unless it is linked."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        socketless: bool | None = None,
        widget_type: str | None = None,
        force_input: bool | None = None,
        extra_dict: dict[str, Any] | None = None,
        raw_link: bool | None = None,
        advanced: bool | None = None,
    ) -> None:
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
        self.default = default.value if isinstance(default, Enum) else default
        self.socketless = socketless
        self.widget_type = widget_type
        self.force_input = force_input
        # Options of one kind of widget, under their names in object_info; set by subclasses.
        self.own: dict[str, Any] = {}

    def get_io_type(self) -> str:
        return self.widget_type or self.io_type

    def options_dict(self) -> dict[str, Any]:
        return {
            "default": self.default,
            "socketless": self.socketless,
            "widgetType": self.widget_type,
            "forceInput": self.force_input,
            **self.own,
        }


class Boolean(Custom("BOOLEAN")):
    """True or false."""

    class Input(WidgetInput):
        io_type = "BOOLEAN"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: Any = None,
            label_on: str | None = None,
            label_off: str | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless,
                None, force_input, extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.own = {
                "label_on": label_on,
                "label_off": label_off,
            }


class Int(Custom("INT")):
    """A whole number; `control_after_generate` adds the widget that changes a seed."""

    class Input(WidgetInput):
        io_type = "INT"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: Any = None,
            min: int | None = None,
            max: int | None = None,
            step: int | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            display_mode: NumberDisplay | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless,
                None, force_input, extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.own = {
                "min": min,
                "max": max,
                "step": step,
                "control_after_generate": control_after_generate,
                "display": display_mode,
            }


class Float(Custom("FLOAT")):
    """A number."""

    class Input(WidgetInput):
        io_type = "FLOAT"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: Any = None,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
            round: float | None = None,
            display_mode: NumberDisplay | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless,
                None, force_input, extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.own = {
                "min": min,
                "max": max,
                "step": step,
                "round": round,
                "display": display_mode,
            }


class String(Custom("STRING")):
    """A text."""

    class Input(WidgetInput):
        io_type = "STRING"

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: Any = None,
            multiline: bool = False,
            placeholder: str | None = None,
            dynamic_prompts: bool | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless,
                None, force_input, extra_dict, raw_link, advanced,
            )  # fmt: skip
            self.own = {
                "multiline": multiline,
                "placeholder": placeholder,
                "dynamicPrompts": dynamic_prompts,
            }


class Combo(Custom("COMBO")):
    """One of several values."""

    class Input(WidgetInput):
        io_type = "COMBO"

        def __init__(
            self,
            id: str,
            options: Iterable[Any] | type[Enum] | None = None,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: Any = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            upload: UploadType | None = None,
            image_folder: FolderType | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless,
                None, force_input, extra_dict, raw_link, advanced,
            )  # fmt: skip
            values = [] if options is None else list(options)
            self.options = [v.value if isinstance(v, Enum) else v for v in values]
            self.own = {
                "multiselect": False,
                "options": self.options,
                "control_after_generate": control_after_generate,
                "image_folder": image_folder,
            }
            if upload is not None:
                self.own[upload.value] = True
