# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Real scans, pictures and questions drawn from them, and small models: the parts that ``demo/rebuild.sh`` uses."""
