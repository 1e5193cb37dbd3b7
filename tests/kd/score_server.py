# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A server with vLLM's token endpoint over a model in this process, which fails when and how a test wants it to."""

import base64
import io

import torch
from aiohttp import web
from generation.answer_server import AnswerServer, broken_response
from PIL import Image
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration


class ScoreServer(AnswerServer):
    """Scores prompts; use it as a context manager.

    ``fault(number, attempt)`` returns the kind of fault of the row that came as ``number``-th, or None; ``asked`` has
    the numbers of the rows in the order of the requests.
    """

    def __init__(self, folder, fault=lambda number, attempt: None, *, max_logprobs=20, scale_out=True):
        super().__init__(names=("teacher",))
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.fault, self.max_logprobs, self.scale_out = fault, max_logprobs, scale_out
        self.image_pad, self.vocabulary = self.model.config.image_token_id, self.model.config.text_config.vocab_size
        self.asked, self.rows, self.attempts = [], {}, {}

    def become_another_model(self):
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if "layernorm" not in name:
                    parameter.mul_(-1)

    def _add_routes(self, router):
        super()._add_routes(router)
        router.add_post("/inference/v1/generate", self._generate)

    async def _detokenize(self, request):
        body = await request.json()
        return web.json_response({"prompt": self.processor.tokenizer.decode(body["tokens"])})

    async def _generate(self, request):
        body = await request.json()
        k = body["sampling_params"]["prompt_logprobs"]
        if not self.scale_out or k > self.max_logprobs:
            return web.Response(status=400 if self.scale_out else 403, text="a patient's question")
        ids = tuple(body["token_ids"])
        if len(ids) == 2:  # the probe
            return web.json_response({"choices": []})
        number = self.rows.setdefault((ids, str(body.get("content_parts"))), len(self.rows))
        attempt = self.attempts[number] = self.attempts.get(number, -1) + 1
        self.asked.append(number)
        kind = self.fault(number, attempt)
        if (broken := await broken_response(request, kind)) is not None:
            return broken
        images = [Image.open(io.BytesIO(base64.b64decode(p["url"][22:]))) for p in body.get("content_parts", [])]
        expanded, logprobs = self.score(ids, images)
        entries = [None]
        for position, token in enumerate(expanded[1:]):
            values, likely = logprobs[position].topk(k - (kind == "too_few"))
            row = dict(zip(map(str, likely.tolist()), values.tolist(), strict=True))
            if kind != "too_few":
                row[str(token)] = float(logprobs[position, token])
            if kind == "logits":
                row = {key: value + 9 for key, value in row.items()}
            entries.append({key: {"logprob": value, "rank": 1, "decoded_token": None} for key, value in row.items()})
        if kind == "cut":
            entries.pop()
        if kind == "tokens":
            expanded = [*expanded[:-1], self.image_pad, expanded[-1]]
        return web.json_response({"choices": [], "prompt_token_ids": expanded, "prompt_logprobs": entries})

    def score(self, ids, images):
        """The prompt with its image tokens, and log-probabilities ``[n, V]``."""
        media = self.processor.image_processor(images, return_tensors="pt") if images else {}
        counts = iter((media["image_grid_thw"].prod(-1) // 4).tolist() if images else [])
        expanded = [x for i in ids for x in ([i] * next(counts) if i == self.image_pad else [i])]
        inputs = torch.tensor([expanded])
        types = {"mm_token_type_ids": (inputs == self.image_pad).long()} if images else {}
        with torch.no_grad():
            logits = self.model(input_ids=inputs, **types, **media).logits[0]
        return expanded, logits.float().log_softmax(-1)
