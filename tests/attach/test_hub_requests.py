# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What is requested from the hub: without ``use_clinkd`` exactly what stock requests, by every entry point."""

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_run import recipe
from tiny_models import build_tiny_qwen2vl

from llamafactory_clinkd.rope import read_rope_config, write_rope_config
from llamafactory_clinkd.rope.saved_positions import write_mark


NAME, COMMIT = "clinic/reader", "c" * 40


class FakeHub(http.server.BaseHTTPRequestHandler):
    """Serves the files of one model as huggingface.co does, and keeps every path that was requested."""

    def __init__(self, folder, requests, *args):
        self.folder, self.requests = folder, requests
        super().__init__(*args)

    def do_HEAD(self, body=False):
        self.requests.append(f"{self.command} {self.path.partition('?')[0]}")
        _, found, name = self.path.partition(f"/{NAME}/resolve/main/")
        _, _, by_commit = self.path.partition(f"/{NAME}/resolve/{COMMIT}/")
        file = self.folder / (name or by_commit or "nothing")
        content = file.read_bytes() if file.is_file() else b""
        self.send_response(200 if file.is_file() else 404)
        if not file.is_file():
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self):
        self.do_HEAD(body=True)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    """A folder that is the model ``clinic/reader``, the requests, and the variables of a process that uses the hub."""
    folder, requests = tmp_path / "reader", []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(FakeHub, folder, requests))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
    variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    variables |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    yield folder, requests, {**os.environ, **variables}
    server.shutdown()


ENTRY_POINTS = """
import json, os, shutil, sys
import torch
from llamafactory_clinkd import attach
from llamafactory.hparams import parser
from llamafactory.train.sft import workflow
# Stock's scores need three packages; what is tested are the requests.
parser.check_version = lambda *args, **kwargs: None
workflow.ComputeSimilarity = lambda tokenizer: lambda predictions: {}

def run(mode):
    from llamafactory.api.app import create_app
    from llamafactory.chat import ChatModel
    from llamafactory.train.tuner import export_model, run_exp
    keys = json.loads(sys.argv[1])
    where = {"model_name_or_path": keys["model_name_or_path"], "cache_dir": keys["output_dir"] + "/hub-" + mode}
    infer = where | {"template": "qwen2_vl", "infer_dtype": "float32", "max_new_tokens": 2}
    out = keys["output_dir"] + "/" + mode
    for name, call in {
        "train": lambda: run_exp(keys | where | {"output_dir": out + "-train"}),
        "predict": lambda: run_exp(keys | where | {
            "output_dir": out + "-predict", "do_train": False, "do_predict": True, "dataset": None,
            "predict_with_generate": True, "max_new_tokens": 2, "save_strategy": "no"}),
        "export": lambda: export_model(infer | {"export_dir": out + "-export"}),
        "chat": lambda: ChatModel(infer).chat([{"role": "user", "content": "hello"}]),
        "api": lambda: create_app(ChatModel(infer)),
    }.items():
        print(json.dumps(["requests of", mode, name]), flush=True)
        print(json.dumps(hub_log(name + "-" + mode)), flush=True)
        call()

def hub_log(name):
    import urllib.request
    try:
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/entry-point/" + name)
    except Exception as error:
        return str(error)

attach.detach()
run("stock")
shutil.rmtree(os.environ["HF_HOME"])  # stock reads some files from here, whatever `cache_dir` is
attach.attach()
assert attach.status()["error"] is None, attach.status()
run("attached")
"""


@pytest.mark.slow
def test_every_stock_entry_point_requests_what_stock_requests(hub, tmp_path, workspace):
    folder, requests, variables = hub
    folder.symlink_to(workspace / "student")
    off = dict.fromkeys(
        ("use_clinkd", "ref_model", "clinkd_phases", "pseudo_label_samples", "kd_epochs", "correction_similarity",
         "sasg_scorer", "eval_dataset")
    )  # fmt: skip
    keys = recipe(workspace, tmp_path / "out", **off, model_name_or_path=NAME, save_strategy="no", max_steps=1)
    keys |= {"eval_dataset": "tiny_test", "do_eval": False}
    done = subprocess.run(
        [sys.executable, "-c", ENTRY_POINTS, json.dumps(keys)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    by_entry_point = {}
    for line in requests:
        head, found, name = line.partition("/entry-point/")
        if found:
            current = by_entry_point.setdefault(name, [])
        else:
            current.append(line)
    assert len(by_entry_point) == 10
    for name in ("train", "predict", "export", "chat", "api"):
        assert by_entry_point[f"{name}-stock"]  # the model comes from the fake hub
        assert sorted(by_entry_point[f"{name}-attached"]) == sorted(by_entry_point[f"{name}-stock"]), name
    assert not [line for line in requests if "clinkd" in line]


LOOK = """
import json, sys
from types import SimpleNamespace
from llamafactory_clinkd.rope.saved_positions import apply_saved_positions, refuse_foreign_engine, settings_of_run
from transformers import Qwen2VLForConditionalGeneration
from huggingface_hub import snapshot_download

arguments = SimpleNamespace(model_name_or_path="clinic/reader", adapter_name_or_path=None, infer_backend="vllm")
off = SimpleNamespace(use_clinkd=False)
print(settings_of_run(arguments, off))
model = Qwen2VLForConditionalGeneration.from_pretrained("clinic/reader")
for look in (lambda: apply_saved_positions(model, arguments, off), lambda: refuse_foreign_engine(arguments, off)):
    try:
        look()
    except ValueError as error:
        print("refused:", error)
from huggingface_hub import hf_hub_download
hf_hub_download("clinic/reader", "clinkd_config.json")
print(apply_saved_positions(model, arguments, off).model.clinkd_rope["variant"])
"""


def test_a_marked_hub_model_without_its_settings_is_refused(hub):
    """Stock positions would silently give wrong answers, and without ``use_clinkd`` nothing more is requested."""
    folder, requests, variables = hub
    build_tiny_qwen2vl(folder, hidden_size=32, layers=1, texts=["a few words"])
    write_rope_config(folder, {"variant": "rope_2d", "image_square": True})
    write_mark(folder)
    done = subprocess.run([sys.executable, "-c", LOOK], env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[0] == "None" and lines[-1] == "rope_2d"
    assert len(lines) == 4 and all("hf download clinic/reader" in line for line in lines[1:3])
    asked = [line for line in requests if "clinkd" in line]
    assert asked and asked == requests[-len(asked) :]  # only the download at the end
    assert not any("clinkd" in line for line in requests[: -len(asked)])


def test_the_mark_of_an_adapter_is_in_a_field_that_peft_reads_in_silence(tmp_path, recwarn):
    from peft import LoraConfig

    LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    before = json.loads((tmp_path / "adapter_config.json").read_text())
    write_mark(tmp_path)
    assert LoraConfig.from_pretrained(tmp_path).r == 2 and not list(recwarn)
    after = json.loads((tmp_path / "adapter_config.json").read_text())
    assert after == before | {"auto_mapping": {"clinkd_config": 1}}
    assert read_rope_config(tmp_path) is None


def test_a_folder_without_a_configuration_gets_no_mark(tmp_path):
    write_mark(tmp_path)
    assert list(Path(tmp_path).iterdir()) == []
