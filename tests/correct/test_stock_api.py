# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import subprocess
import time
import urllib.error
import urllib.request

import pytest
from small_run import free_port
from tiny_models import build_tiny_qwen2vl, qwen_tokenizer_available

from llamafactory_clinkd.correct import correct_round, load_similarity, make_corrector
from llamafactory_clinkd.utils.environment import cli_command, cli_environment
from llamafactory_clinkd.utils.io import read_jsonl

from .fault_server import make_rows


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not qwen_tokenizer_available(), reason="dashscope, which carries Qwen's tokenizer, is missing"),
]


@pytest.fixture
def stock_api(tmp_path):
    """`llamafactory-cli api` on loopback with a tiny random model; yields its base URL."""
    model = build_tiny_qwen2vl(tmp_path / "model")
    port = free_port()
    options = ["--template", "qwen2_vl", "--max_new_tokens", "24", "--do_sample", "true"]
    command = cli_command("api", "--model_name_or_path", model, *options)
    environment = cli_environment(API_HOST="127.0.0.1", API_PORT=str(port), OMP_NUM_THREADS="1")
    log = tmp_path / "api.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/models", timeout=5).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_nonsense_of_the_stock_server_is_rejected_and_nothing_lost(stock_api, tmp_path):
    pytest.importorskip("openai")
    rows, path = make_rows(20), tmp_path / "round-1.jsonl"
    corrector = make_corrector("openai", model="tiny", base_url=stock_api, concurrency=4)
    summary = correct_round(rows, similarity=load_similarity("lexical"), corrector=corrector, out_path=path)
    assert (summary.rows, summary.kept, summary.corrected, summary.rejected) == (20, 2, 0, 18)
    assert [each["id"] for each in read_jsonl(path)] == [each["id"] for each in rows]
    assert summary.usage["requests"] == 18 and summary.usage["completion_tokens"] > 0
