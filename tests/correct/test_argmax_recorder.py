# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import torch

from llamafactory_clinkd.correct.correction_trainer import ArgmaxRecorder, answer_columns
from llamafactory_clinkd.utils.io import read_jsonl


END = 9


def test_last_answer_up_to_its_end():
    kept = torch.tensor([3, 4, 5, 10, 11, 12, 13])
    targets = torch.tensor([1, 2, END, 5, 6, END, 8])
    assert answer_columns(kept, targets, END).tolist() == [3, 4]
    assert answer_columns(kept, torch.full((7,), -100), END).tolist() == []
    assert answer_columns(kept, torch.tensor([1, 2, END, -100, -100, -100, -100]), END).tolist() == [0, 1]
    assert answer_columns(kept, torch.tensor([1, 2, -100, -100, -100, -100, -100]), END).tolist() == [0, 1]


class Words:
    """Decodes ids as letters."""

    eos_token_id = END

    def decode(self, tokens, skip_special_tokens):
        return "".join("abcdefgh"[token] for token in tokens)


class Rank:
    def __init__(self, process_index):
        self.process_index = process_index


def test_records_by_row_and_the_last_record_counts(tmp_path):
    kept, targets = torch.tensor([4, 5, 6]), torch.tensor([[1, 2, END], [3, END, -100], [1, 1, END]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [3, 4, 5], [6, 6, 6]]).flatten(), 8).float()
    first, second = (ArgmaxRecorder(tmp_path, Words(), Rank(rank)) for rank in (0, 1))
    first.record(1, [7, 2, -1], kept, targets, lambda rows: logits[rows])
    first.flush()
    second.record(1, [5, 7, -1], kept, targets, lambda rows: logits[rows])
    assert second.collect(1, [2], ["2:x"]) == [] and not (tmp_path / "round-1.outputs.jsonl").exists()
    found = list(first.collect(1, [2, 5, 7, 8], ["2:x", "5:y", "7:z", "8:w"]))
    assert read_jsonl(tmp_path / "round-1.outputs.jsonl") == found
    texts = [row["candidates"][0]["text"] if row["candidates"] else None for row in found]
    assert texts == ["d", "ab", "d", None]
    assert [row["id"] for row in found] == ["2:x", "5:y", "7:z", "8:w"]
