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
"""Several pages watch one run: each waits for its end, and hears of it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from llamafactory_clinkd.webui.monitor import one_reader_at_a_time


SAYS_AND_ENDS = "import sys, time\nfor _ in range(40): print('said', file=sys.stderr, flush=True); time.sleep(0.02)"


def test_two_pages_that_wait_for_one_process_both_get_all_it_said():
    """Without turns one of the two raises EBADF or ValueError now and then: its pipe is closed by the other."""
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SAYS_AND_ENDS], stderr=subprocess.PIPE, text=True)
        one_reader_at_a_time(process)
        one_reader_at_a_time(process)

        def watch(process=process):
            while True:
                try:
                    return process.communicate(timeout=0.05)[1]
                except subprocess.TimeoutExpired:
                    continue

        with ThreadPoolExecutor(3) as pool:
            heard = [pool.submit(watch) for _ in range(3)]
        assert [each.result() for each in heard] == ["said\n" * 40] * 3 and process.returncode == 0
