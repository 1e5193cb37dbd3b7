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

"""``clinkd reproduce``: the paper's tables 1 to 3 and figure 4, at the paper's scale and in miniature.

- :mod:`.rows`: which rows each table has
- :mod:`.recipes`: a row, a seed -> the recipe of a run
- :mod:`.run`, :mod:`.launch`: the runs that are missing, each a ``llamafactory-cli train``
- :mod:`.results`, :mod:`.statistics`: what runs left, and what seeds do
- :mod:`.table`, :mod:`.long_form`, :mod:`.figure`: the tables and the figure
- :mod:`.plan`: what it all would take
- :mod:`.mini`, :mod:`.held_out`, :mod:`.blind`, :mod:`.mean_box`: the miniature benchmark and its sanity rows
"""
