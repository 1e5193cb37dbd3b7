# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The report: one self-contained HTML page about one run, or several side by side.

- :func:`build_report`: run folders to ``report.html``
"""

from ..utils.lazy import lazy_names


_OFFERED = {"build_report": "build"}

__all__ = list(_OFFERED)
__getattr__ = lazy_names(__name__, _OFFERED)
