# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The mean-box baseline under its former name; new code calls ``mean_box_from_facts``."""

from llamafactory_clinkd.evaluate.mean_box import mean_box_from_facts as mean_box_recall


__all__ = ["mean_box_recall"]
