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

import pytest


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """Tiny models and data, shared and never written to."""
    from small_run import build_workspace
    from tiny_models import qwen_tokenizer_available

    if not qwen_tokenizer_available():
        pytest.skip("the package dashscope, which carries Qwen2-VL's tokenizer file, is not installed")
    return build_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def quick_workspace(tmp_path_factory):
    """The same with a vocabulary of its own, for tests that start many runs; needs no tokenizer file."""
    from small_run import build_workspace

    return build_workspace(tmp_path_factory.mktemp("quick"), own_vocabulary=True)
