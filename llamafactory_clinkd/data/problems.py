# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Every problem that a row or an image can have: its code and the sentence that describes it."""

Problem = tuple[str, str]  # code and detail

REASONS = {  # why `convert` rejects a row
    "not_json": "the line is not valid JSON or CSV",
    "not_an_object": "the row is not a JSON object",
    "missing_field": "a field that the format requires is missing",
    "wrong_type": "a field holds something other than text, or what would be lost, such as a video",
    "bad_text": "the text holds bytes or surrogates that are not valid Unicode",
    "no_turns": "the conversation is empty",
    "turn_order": "questions and answers do not alternate, or the last question has no answer",
    "unknown_role": "a message has a role other than user, assistant or system",
    "empty_question": "a question is empty",
    "empty_answer": "an answer is empty, or nan",
    "control_token": "the text holds a control token of the model or the loader, such as <|im_end|> or <video>",
    "image_in_answer": "an answer holds an image",
    "image_in_system": "the system prompt holds an image, whose pixels no template places there",
    "image_count": "the number of <image> placeholders differs from that of images, or they are spelled otherwise",
    "image_mismatch": "an <img> tag names a different image than the row",
    "bad_path": "the image path is absolute, a URL, empty, too long, or leaves the data folder",
    "image_unreadable": "the image does not open",
    "image_truncated": "the image file is truncated",
    "image_small": "a side of the image has fewer than 28 pixels, less than one merged patch",
    "image_aspect": "a side of the image is 200 times the other or more, which the model's processor refuses",
    "lfs_pointer": "the file is a Git-LFS or git-annex pointer, not the image",
    "tags_unbalanced": "a ref or box tag is not closed, or not opened",
    "bad_box": "a box tag does not hold coordinates, or a box stands in a structure that is not read",
    "box_outside": "a box reaches outside the image",
    "box_order": "a box has its corners in the wrong order",
    "box_empty": "a box has no width or no height",
    "box_scale": "a box is in another unit than the others of the file, or in pixels of a picture of unknown size",
    "bad_scan": "a DICOM or NIfTI file is missing or cannot be turned into an image",
    "not_english": "the row is not in English (skipped by choice: not an error under `--strict`)",
    "no_finding": "the image has no annotation to ask for (skipped by choice: not an error under `--strict`)",
}
CHOICES = frozenset({"not_english", "no_finding"})  # reasons that are no fault of the row
_CONVERT_ONLY = ("not_english", "no_finding", "bad_scan", "image_mismatch")
# What `check` reports.
ERRORS = {reason: text for reason, text in REASONS.items() if reason not in _CONVERT_ONLY} | {
    "image_missing": "the image does not exist",
    "image_depth": "the image has more than 8 bits, which other readers clip: `convert` writes 8-bit PNG",
    "image_alpha": "the image is transparent, which readers fill differently: `convert` writes an opaque PNG",
    "image_rotated": "the image has an EXIF orientation, which other readers ignore: `convert` writes it upright",
    "box_form": "a box is not written as whole thousandths in [0, 1000)",
    "leak_image": "the image is also in the other set (by path or by content)",
    "leak_volume": "another slice of the same volume is in the other set",
    "too_long": "the row has more tokens than cutoff_len: its end, the answer first, is cut off",
}
WARNINGS = {
    "box_unread": "numbers that look like a box, in a form that is not read as one",
    "duplicate_row": "an earlier row is identical",
    "duplicate_id": "different rows share this id, which is not the name of their image (as in Med-GRIT)",
    "no_image": "the row has no image",
    "image_mode": "the image is neither 8-bit RGB nor grey, and is converted to RGB",
    "image_frames": "the image has several frames or pages: the first is used",
    "image_extension": "the extension of the image is that of another format",
    "image_blank": "all pixels of the image have one value",
    "leak_patient": "the patient of the image is also in the other set",
}


class Reject(ValueError):
    """One row cannot be used; ``reason`` is a key of :data:`REASONS`, ``detail`` is what was found in the row."""

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise KeyError(f"Unknown reject reason {reason!r}: expected one of {', '.join(REASONS)}.")
        super().__init__(reason, detail)  # both, so that worker processes can pickle it
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"
