# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Why a row was set aside: the reasons, each with the sentence that the user reads."""

REASONS = {
    "not_json": "the line is not valid JSON",
    "not_an_object": "the row is not a JSON object",
    "missing_field": "a field that the format needs is absent",
    "wrong_type": "a field holds something other than text",
    "bad_text": "the text holds bytes or surrogates that are not valid Unicode",
    "no_turns": "the conversation is empty",
    "turn_order": "questions and answers do not alternate, or the last question has no answer",
    "unknown_role": "a message has a role other than user, assistant or system",
    "empty_question": "a question is empty",
    "empty_answer": "an answer is empty",
    "control_token": "the text holds a token that steers the model or the loader, such as <|im_end|> or <video>",
    "image_in_answer": "an answer holds an image",
    "image_count": "the number of <image> placeholders is not that of the images",
    "image_mismatch": "an <img> tag names another image than the row",
    "bad_path": "the image path is absolute, a URL, empty, or leaves the data folder",
    "tags_unbalanced": "a ref or box tag is not closed, or not opened",
    "bad_box": "a box tag does not hold coordinates",
    "box_outside": "a box reaches outside the image",
    "box_order": "a box has its corners in the wrong order",
    "box_empty": "a box has no width or no height",
    "bad_scan": "a DICOM or NIfTI file is missing or cannot be turned into a picture",
    "not_english": "the row is not in English (a choice, not a fault: `--strict` passes over it)",
}
CHOICES = frozenset({"not_english"})


class Reject(ValueError):
    """Sets one row aside.

    Args:
        reason: A key of :data:`REASONS`.
        detail: What was found, for the user who mends the row.
    """

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise KeyError(f"Unknown reject reason {reason!r}: expected one of {', '.join(REASONS)}.")
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
