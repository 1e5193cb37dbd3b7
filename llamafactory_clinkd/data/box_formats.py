# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Detection data: COCO, VinDr-CXR, Kvasir-SEG and RefCOCO, whose boxes are pixels beside a label.

Each label of a picture becomes one question for all its boxes; a picture without a box, or a class of VinDr's that
marks none, is set aside as ``no_finding``. A bad box sets the whole row aside, because an answer that lacks a box is
wrong.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .conversation import Conversation, conversation, field_of, number_of, objects_of, size_of, text_of
from .coordinates import Size
from .problems import Reject


_VINDR_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_KVASIR_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _grounding(identity: str, image: Any, label: str, boxes: list[list[float]], size: Size | None) -> Conversation:
    if not boxes:
        raise Reject("no_finding", f"no box of {label or 'anything'!r}")
    written = "".join(dict.fromkeys("<box>({!r},{!r}),({!r},{!r})</box>".format(*box) for box in boxes))
    turns = [[f"Where is the <ref>{label}</ref> located in the image?", f"<ref>{label}</ref>{written}"]]
    return conversation(identity, image, turns, unit="pixels", size=size)


def _corners(box: Any, form: str) -> list[float]:
    """``x1, y1, x2, y2`` of a list ``[x, y, width, height]`` (form ``xywh``) or of the corners."""
    if not isinstance(box, list) or len(box) != 4:
        raise Reject("bad_box", f"expected four numbers, found {str(box)[:60]}")
    x, y, a, b = (number_of({form: value}, form) for value in box)
    return [x, y, x + a, y + b] if form == "xywh" else [x, y, a, b]


def coco_rows(images: dict[Any, dict], categories: dict[Any, Any], annotations: list[dict]) -> Iterator[Any]:
    """One row per picture and category, or per caption, in the order of the annotations; pictures without any last."""
    groups: dict[Any, list[dict]] = {}
    for annotation in annotations:
        caption = annotation.get("caption") is not None
        key = (annotation.get("image_id"), ("caption", len(groups)) if caption else annotation.get("category_id"))
        try:
            groups.setdefault(key, []).append(annotation)
        except TypeError:  # the ids are lists or objects
            yield Reject("wrong_type", f"image_id and category_id of annotation {annotation.get('id')!r}")
    for (image, category), members in groups.items():
        if image not in images:
            yield Reject("missing_field", f"no image has the id {image!r} of annotation {members[0].get('id')!r}")
        else:
            yield {"coco_image": images[image], "category": categories.get(category), "annotations": members}
    annotated = {image for image, _ in groups}
    yield from ({"coco_image": images[image], "annotations": []} for image in images if image not in annotated)


def coco(row: Mapping[str, Any]) -> Conversation:
    """A category of a picture of a COCO file, or a caption."""
    image, members = row.get("coco_image"), objects_of(row, "annotations")
    if not isinstance(image, dict):
        raise Reject("wrong_type", f"the image should be an object, is {type(image).__name__}")
    path = field_of(image, "file_name")
    if members and "caption" in members[0]:
        turns = [["Describe the image.", field_of(members[0], "caption")]]
        return conversation(str(members[0].get("id", "")), path, turns)
    if any(member.get("iscrowd") for member in members):
        raise Reject("bad_box", "a region of many objects (iscrowd)")
    boxes = [_corners(member.get("bbox"), "xywh") for member in members]
    label = row.get("category")
    if boxes and not (isinstance(label, str) and label.strip()):
        raise Reject("missing_field", f"no category has the id {members[0].get('category_id')!r}")
    identity = f"{image.get('id')}-{members[0].get('category_id')}" if members else ""
    return _grounding(identity, path, label or "", boxes, size_of(image))


def vindr_key(row: Mapping[str, Any]) -> tuple | None:
    """What the lines of one row share: the picture, the class and the radiologist. None: not such a line."""
    if not {"image_id", "class_name", *_VINDR_CORNERS} <= row.keys():
        return None
    return row["image_id"], row["class_name"], row.get("rad_id")


def vindr(row: Mapping[str, Any]) -> Conversation:
    """The boxes that one radiologist of VinDr-CXR drew for one class."""
    lines = objects_of(row, "lines")
    if not lines:
        raise Reject("missing_field", "no line")
    identity, label = field_of(lines[0], "image_id"), field_of(lines[0], "class_name")
    boxes = [
        [number_of(line, corner) for corner in _VINDR_CORNERS]
        for line in lines
        if any(line.get(corner) not in (None, "") for corner in _VINDR_CORNERS)
    ]
    if boxes and len(boxes) < len(lines):
        raise Reject("bad_box", f"{len(lines) - len(boxes)} of {len(lines)} boxes are empty")
    return _grounding(identity, identity, label, boxes, size_of(lines[0]))


def kvasir(row: Mapping[str, Any]) -> Conversation:
    """A picture of Kvasir-SEG's ``kavsir_bboxes.json``; its boxes have one label, ``polyp``."""
    boxes = objects_of(row, "bbox")
    labels = {text_of(box.get("label"), "label") for box in boxes}
    if len(labels) > 1:
        raise Reject("bad_box", f"several labels in one picture: {', '.join(sorted(labels))}")
    corners = [[number_of(box, corner) for corner in _KVASIR_CORNERS] for box in boxes]
    identity = field_of(row, "id")
    return _grounding(identity, f"{identity}.jpg", "".join(labels), corners, size_of(row))


def refcoco(row: Mapping[str, Any]) -> Conversation:
    """A region with its expressions, a turn each: corners where the raw annotation is kept beside, else x, y, w, h."""
    expressions = next((row[key] for key in ("sentences", "captions", "answer", "sent") if row.get(key)), None)
    expressions = expressions if isinstance(expressions, list) else [expressions]
    texts = [text_of(entry.get("sent") if isinstance(entry, dict) else entry, "expression") for entry in expressions]
    box = _corners(row.get("bbox"), "corners" if "raw_anns" in row else "xywh")
    answer = "<box>({!r},{!r}),({!r},{!r})</box>".format(*box)
    turns = [[f"Where is the <ref>{text}</ref> located in the image?", answer] for text in dict.fromkeys(texts)]
    identity = field_of(row, "question_id", "ref_id", "ann_id", "id")
    image = row.get("image", row.get("image_path", row.get("file_name")))
    return conversation(identity, image, turns, unit="pixels", size=size_of(row))
