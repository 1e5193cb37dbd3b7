# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""ClinKD for stock LLaMA-Factory: knowledge distillation for medical vision-language models.

Importing this package is cheap: neither torch nor LLaMA-Factory is loaded before a part that needs it is used.
"""

__version__ = "0.2.0"
