# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What rows in LLaMA-Factory's ShareGPT format hold besides their messages and images."""

SIDE_COLUMNS = ("id", "task", "modality")  # ignored by LLaMA-Factory
IMAGE_PLACEHOLDER = "<image>"
