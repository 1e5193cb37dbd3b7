# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rows as messages of a chat, with the pixels that the local model sees."""

import base64
import io
from typing import Any

from ..rope.square import processor_limits
from ..utils.boxes import IMAGE_PLACEHOLDER


class ChatRows:
    """The messages of aligned rows; pictures are PNG data URLs with the pixels that the local model sees."""

    def __init__(self, aligned: Any, template: Any, processor: Any) -> None:
        self._aligned, self._template = aligned, template
        self._pictures = Pictures(template, processor)

    def __call__(self, index: int) -> list[dict[str, Any]]:
        """Raises ValueError for a row that a chat cannot express, FileNotFoundError without its picture."""
        row = self._aligned[index]
        if row.get("_videos") or row.get("_audios") or row.get("_tools"):
            raise ValueError("Videos, audio and tools are not sent to a server.")
        images = iter(self._pictures(row.get("_images") or []))
        system = row.get("_system") or self._template.default_system
        messages = [{"role": "system", "content": system}] if system else []
        for message in row["_prompt"]:
            if message["role"] not in ("user", "assistant"):
                raise ValueError(f"A message of the role {message['role']!r} is not sent to a server.")
            texts, parts = message["content"].split(IMAGE_PLACEHOLDER), []
            for number, text in enumerate(texts):
                if number:
                    parts.append({"type": "image_url", "image_url": {"url": next(images)}})
                if text:
                    parts.append({"type": "text", "text": text})
            messages.append({"role": message["role"], "content": parts if len(texts) > 1 else message["content"]})
        return messages


class Pictures:
    """Images of a row -> PNG data URLs with the pixels that the local model sees."""

    def __init__(self, template: Any, processor: Any) -> None:
        self._plugin, self._processor = template.mm_plugin, processor
        if hasattr(self._plugin, "clinkd_limits"):
            self._plugin.clinkd_limits = processor_limits(getattr(processor, "image_processor", None))

    def __call__(self, images: list[Any]) -> list[str]:
        """Raises FileNotFoundError or ValueError for a picture that cannot be read."""
        if not images:
            return []
        limits = {key: getattr(self._processor, key) for key in ("image_max_pixels", "image_min_pixels")}
        return [_data_url(picture) for picture in self._plugin._regularize_images(images, **limits)["images"]]


def _data_url(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
