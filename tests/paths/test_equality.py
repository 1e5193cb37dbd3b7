# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Equality of logits on every path, for every variant."""

import pytest
import torch

from .runs import VARIANTS, chat, generated, infer_keys, prompt_of, training_logits


pytestmark = pytest.mark.slow
TOLERANCE = 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_generation_and_chat_agree(variant, trained, sharp_workspace):
    from llamafactory.chat import ChatModel

    image = sharp_workspace / "data" / "images" / "ct_004.png"
    model = ChatModel(infer_keys(trained(variant)))
    answer, chat_logits = chat(model, image)
    engine = model.engine
    prompt = prompt_of(engine, [str(image)])
    new, cached = generated(engine, prompt, image, use_cache=True)
    again, uncached = generated(engine, prompt, image, use_cache=False)
    forward = training_logits(engine, prompt, new, image)
    print(new, answer, forward.abs().max(), [(forward - x).abs().max() for x in (cached, uncached, chat_logits)])
    assert len(new) == 8 and again == new
    assert engine.tokenizer.decode(new, skip_special_tokens=True) == answer
    for found in (cached, uncached, chat_logits):
        assert torch.allclose(found, forward, atol=TOLERANCE)
