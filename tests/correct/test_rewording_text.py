# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.correct import Usage, correct_round, load_similarity
from llamafactory_clinkd.correct.corrector import CorrectionResult
from llamafactory_clinkd.correct.rewording_validation import text_reasons


TRUTH = "The left kidney is small (4 cm)."


@pytest.mark.parametrize(
    "text",
    [
        "<image>",
        "<IMAGE>",
        "<video>",
        "<audio>",
        "<|image_pad|>",
        "<|endoftext|>",
        "<｜end▁of▁sentence｜>",
        "\0",
        "\x1b[0m",
    ]
    + ["\u200b", "\u200d", "\u202e", "\ufeff", "\u2066", "\ud800"],
)
def test_control_text(text):
    assert text_reasons(f"The left kidney {text} is small.", TRUTH) == ["control_text"]


@pytest.mark.parametrize(
    "text",
    [
        "Here is a rewrite: A small left kidney.",
        "Here are three rephrased versions: a small left kidney.",
        "Sure, the left kidney is small.",
        "Certainly! The left kidney is small.",
        "Rewritten answer: A small left kidney.",
        "Option 2 - A small left kidney.",
        "Human: Where? Assistant: A small left kidney.",
        "A small left kidney.\nUser: thanks",
        "Q: Size? A small left kidney.",
        "```\nA small left kidney\n```",
        "A **small** left kidney.",
        "# Answer\nA small left kidney.",
        "- A small left kidney.",
        "1. A small left kidney.",
        '"A small left kidney."',
        "“A small left kidney.”",
        '{"text": "A small left kidney."}',
        "A small left kidney.</s>",
        "<answer>A small left kidney.</answer>",
        "<b>A small</b> left kidney.<br/>",
        "[INST] A small left kidney.",
        "A small left kidney. Let me know if you want more.",
        "I've rephrased it. A small left kidney.",
        "A small left kidney. (Note: the meaning is the same.)",
        "I'm sorry, a small left kidney.",
    ],
)
def test_traces_of_a_chat(text):
    assert text_reasons(text, TRUTH) == ["chat_text"]


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("A small left kidney <box>(1,2),(3,4)</box>.", TRUTH),
        ("The <|object_ref_start|>kidney<|object_ref_end|> (4 cm) is small.", TRUTH),
        ("Small kidney, < 4 cm; L > R", TRUTH),
        ("Here is the small left kidney.", TRUTH),
        ("The lesion is small (recurrent).", TRUTH),
        ("- a small kidney\n- a cyst", "- small kidney\n- cyst"),
        ("Question: which? Left.", "Question: which one? Left."),
        ('"Double bubble" sign', '"double bubble"'),
        ("Great-vessel transposition can be seen.", "There is transposition."),
    ],
)
def test_what_may_stay(text, truth):
    assert text_reasons(text, truth) == []


class FixedCorrector:
    """Always the same candidates."""

    name, prompt_text = "fixed", ""

    def __init__(self, *candidates):
        self.candidates, self.seen = candidates, 0

    def start_round(self, usage):
        self.usage = usage

    def correct(self, items):
        for item in items:
            self.seen += 1
            yield [CorrectionResult(item.id, self.candidates)]


def test_a_round_rejects_such_text_and_a_resumed_one_does_not_read_it_again(tmp_path):
    row = {"id": "1", "image": "", "question": "Which?", "annotation": TRUTH, "response": "I see nothing."}
    path = tmp_path / "round-1.jsonl"

    def run(corrector):
        return correct_round(
            [row], similarity=load_similarity("lexical"), corrector=corrector, out_path=path, threshold=0.1
        )

    assert run(FixedCorrector("<image>" + TRUTH, f"Sure, {TRUTH}")).rejections == {"chat_text": 1, "control_text": 1}
    record = json.loads(path.read_text())
    record |= {"status": "corrected", "corrected": "<image>" + TRUTH}  # as an older version recorded it
    path.write_text(json.dumps(record) + "\n")
    again = FixedCorrector("<image>" + TRUTH)
    assert run(again).rejected == 1 and again.seen == 1
    assert again.usage == Usage()
