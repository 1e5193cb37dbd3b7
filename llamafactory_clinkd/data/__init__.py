# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Data sets: conversion to LLaMA-Factory's ShareGPT, checks, statistics, subsets and splits.

``convert`` reads Med-GRIT-270k / BiRD, VQA-RAD, SLAKE, LLaVA-Med and ShareGPT; ``check`` finds what would spoil a
training; ``choose_subset`` and ``split_groups`` give the same rows on every machine.
"""

from .check import Check, check
from .convert import Conversion, convert
from .split import choose_subset, split_groups
from .stats import statistics


__all__ = ["Check", "Conversion", "check", "choose_subset", "convert", "split_groups", "statistics"]
