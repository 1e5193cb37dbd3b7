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

"""Data sets: converting them to LLaMA-Factory's ShareGPT, checking, counting and dividing them.

``convert`` reads Med-GRIT-270k / BiRD, VQA-RAD, SLAKE, LLaVA-Med and ShareGPT; ``check`` finds what would spoil a
training; ``statistics`` counts; ``choose_subset`` and ``split_groups`` divide, the same on every machine.
"""

from .check import Check, check
from .convert import Conversion, convert
from .stats import statistics
from .subsets import choose_subset, split_groups


__all__ = ["Check", "Conversion", "check", "choose_subset", "convert", "split_groups", "statistics"]
