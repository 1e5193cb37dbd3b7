# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The report: :func:`build_report` writes one self-contained HTML page about one run, or several side by side."""

from ..utils import lazy_names


__all__ = ["build_report"]
__getattr__ = lazy_names(__name__, {"build_report": "build"})
