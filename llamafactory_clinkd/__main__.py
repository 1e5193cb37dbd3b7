# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``python -m llamafactory_clinkd``: the ``clinkd`` command where it is not on PATH."""

from .cli import main


if __name__ == "__main__":
    main()
