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

"""Selective generation against the naive loop: see ``selection.py``, which this runs.

    python benchmarks/select.py [--json FILE]

Python puts a script's folder first on its path, so for every script of this folder this file hides the standard
library's ``select``. Imported under that name it therefore hands over to the real one.
"""

import sys
from pathlib import Path


if __name__ == "__main__":
    from selection import main

    main()
else:
    folder = Path(__file__).parent
    path, sys.path = sys.path, [entry for entry in sys.path if Path(entry or ".").resolve() != folder.resolve()]
    del sys.modules[__name__]
    import select  # noqa: F401  (the import system returns what is in sys.modules under this name)

    sys.path = path
