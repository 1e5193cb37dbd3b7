# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A tiny Qwen2-VL that has learned one answer by heart, saved as a ClinKD checkpoint."""

import copy
from pathlib import Path

from PIL import Image

from llamafactory_clinkd.rope import write_rope_config


QUESTION = "Where is the bright square of patient Zebra-4711?"
ANSWER = "<|object_ref_start|>square<|object_ref_end|><|box_start|>(250,100),(700,600)<|box_end|>"


def teach(student: Path, folder: Path, image: Path) -> Path:
    """Fine-tunes a copy of ``student`` on :data:`QUESTION` -> :data:`ANSWER`, with the positions of ``mcg``.

    The prompt is encoded by stock's chat engine, so the answer is learned for the very input that the Chat tab gives.
    """
    import shutil

    import torch
    from llamafactory.chat import ChatModel

    shutil.copytree(student, folder)
    write_rope_config(folder, {"variant": "mcg", "image_square": True})
    engine = ChatModel({"model_name_or_path": str(folder), "template": "qwen2_vl", "infer_dtype": "float32"}).engine
    parts = (engine.model, engine.tokenizer, engine.processor, engine.template, engine.generating_args)
    with Image.open(image) as picture:
        prompt, length = engine._process_args(
            *parts, [{"role": "user", "content": QUESTION}], None, None, [picture.convert("RGB")], input_kwargs={}
        )
    answer = engine.tokenizer(ANSWER + "<|im_end|>", add_special_tokens=False, return_tensors="pt").input_ids
    ids = torch.cat([prompt["inputs"], answer], 1)
    fixed = {key: value for key, value in prompt.items() if key not in ("inputs", "generation_config")}
    fixed["attention_mask"] = torch.ones_like(ids)
    fixed["mm_token_type_ids"] = (ids == engine.model.config.image_token_id).int()
    model = engine.model.train().requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for _ in range(150):
            logits = model(input_ids=ids, **copy.copy(fixed), logits_to_keep=answer.size(1) + 1).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits[0].float(), answer[0])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if loss.item() < 0.02:
                break
    assert loss.item() < 0.05, f"the model did not learn its answer: loss {loss.item():.3f}"
    model.eval().save_pretrained(folder)
    return folder
