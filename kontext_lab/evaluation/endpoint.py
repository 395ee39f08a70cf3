"""A vision-language model behind any OpenAI-compatible endpoint (vLLM, llama.cpp, a vendor's), asked for JSON.

An answer that can't be used is asked for again; what stays unusable is an `UnscoredError` with its reason, never
a figure. Good answers are kept on disk under a hash of all that was asked.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from torch import Tensor

from kontext_core.errors import InputError, UnscoredError
from kontext_core.images import to_pil
from kontext_core.partial import whole_file
from kontext_core.small_files import read_small_text

from .deadline import opened

log = logging.getLogger(__name__)

T = TypeVar("T")
# The environment's variable with the password; local servers need none.
KEY = "OPENAI_API_KEY"
# Questions in a row without an answer after which a server is left alone: a benchmark has a thousand.
SILENT = 3
# Bytes of an answer.
LARGEST = 4 << 20
# A side of the pictures that are sent, in pixels.
SENT = 1024


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how patiently.

    Attributes:
        url: up to "/v1".
        model: its name there.
        timeout: seconds for one whole answer.
        tries: at least 1.
        cache: folder of answers; None keeps none.
        wait: seconds before the second try, doubled before each further one.
        password: whether the environment's OPENAI_API_KEY is sent along.

    Nobody is asked any more after `SILENT` questions in a row without a word from the server.
    """

    url: str
    model: str
    timeout: float = 120.0
    tries: int = 3
    cache: Path | None = None
    wait: float = 1.0
    password: bool = True
    _silent: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"{self.url!r} is no address; expected one such as http://127.0.0.1:8000/v1"
            )
        if not self.model:
            raise InputError(
                f"no model is named for {self.url}; name it as the server does (judge_model, --judge-model)"
            )
        if self.tries < 1 or self.timeout <= 0:
            raise InputError(
                f"tries is {self.tries}, timeout {self.timeout}; expected at least 1, and over 0"
            )

    def ask(self, words: str, pictures: Sequence[Tensor], read: Callable[[Any], T]) -> T:
        """What `read` makes of the JSON object in the answer.

        Args:
            pictures: [1, h, w, 3] in 0..1, shown after the words in their order.
            read: takes the object, raises ValueError where it is not as asked for.

        Raises:
            UnscoredError: no usable answer in all tries; says what came.
        """
        body = self._body(words, pictures)
        kept = None
        if self.cache is not None:
            digest = hashlib.sha256(self.url.encode() + b"\n" + body).hexdigest()
            kept = self.cache / digest[:2] / f"{digest}.json"
            found = _kept(kept)
            if found is not None:
                try:
                    return read(_object(found))
                except ValueError:
                    log.warning("%s: the kept answer can't be used; asking again", kept)
        if len(self._silent) >= SILENT:
            raise UnscoredError(
                f"not asked: {SILENT} questions before got no answer ({self._silent[-1]}); see to the server "
                "and run again"
            )
        problem, silent = "", False
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                text = self._sent(body)
            except _Refused as error:
                raise UnscoredError(str(error)) from error
            except _Failed as error:
                problem, silent = str(error), isinstance(error, _Silent)
                continue
            silent = False
            try:
                value = read(_object(text))
            except ValueError as error:
                problem = f"the judge answered {text[:120]!r}: {error}"
                continue
            if kept is not None:
                _keep(kept, text)
            self._silent.clear()
            return value
        if silent:
            self._silent.append(problem)
        else:
            self._silent.clear()
        raise UnscoredError(f"{problem} ({self.tries} tries)")

    def _body(self, words: str, pictures: Sequence[Tensor]) -> bytes:
        content: list[dict[str, Any]] = [{"type": "text", "text": words}]
        for picture in pictures:
            address = "data:image/png;base64," + base64.b64encode(_png(picture)).decode()
            content.append({"type": "image_url", "image_url": {"url": address}})
        asked = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": 512,
        }
        return json.dumps(asked, sort_keys=True).encode()

    def _sent(self, body: bytes) -> str:
        """The answer's text."""
        headers = {"Content-Type": "application/json"}
        if self.password and os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        try:
            with opened(request, self.timeout) as answer:
                data = self._read(answer)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode("utf-8", "replace")
            problem = f"{self.url} answered {error.code}: {said}"
            # Too many requests and faults of the server pass; what it refuses, it refuses again.
            raise (_Failed if error.code in (408, 429) or error.code >= 500 else _Refused)(
                problem
            ) from error
        except TimeoutError as error:
            raise _Silent(f"{self.url} has not answered within {self.timeout:g} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Silent(f"{self.url} has not answered within {self.timeout:g} s") from error
            raise _Silent(f"{self.url} can't be reached ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Silent(f"{self.url} broke off ({error!r})") from error
        try:
            text = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            shown = data[:120].decode("utf-8", "replace")
            raise _Failed(f"{self.url} answered {shown!r}; expected a chat completion") from error
        if not isinstance(text, str):
            raise _Failed(f"{self.url} answered {text!r} in place of a text")
        return text

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        parts, size = [], 0
        while part := answer.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > LARGEST:
                raise _Failed(f"{self.url} answered with more than {LARGEST} bytes")
        return b"".join(parts)


class _Failed(Exception):  # noqa: N818  (a try that may go better next time)
    pass


class _Silent(_Failed):
    pass


class _Refused(Exception):  # noqa: N818  (no try will go better)
    pass


def _png(picture: Tensor) -> bytes:
    image = to_pil(picture)
    image.thumbnail((SENT, SENT))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _object(text: str) -> dict[str, Any]:
    """The JSON object in an answer, which may stand in a fence or among words. Raises ValueError."""
    fenced = re.search(r"```(?:json)?\s*(\{.*?\})\s*```", text, re.DOTALL)
    decoder = json.JSONDecoder()
    for part in ([fenced[1]] if fenced else []) + [
        text[m.start() :] for m in re.finditer(r"\{", text)
    ]:
        try:
            found, _ = decoder.raw_decode(part)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    raise ValueError("there is no JSON object in it")


def _kept(path: Path) -> str | None:
    try:
        return json.loads(read_small_text(path))["answer"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        log.warning("%s can't be read; asking again", path)
        return None


def _keep(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(json.dumps({"answer": text}).encode())
    except OSError as error:
        raise InputError(
            f"can't keep the judge's answer in {path} ({error}); choose another folder"
        ) from error
