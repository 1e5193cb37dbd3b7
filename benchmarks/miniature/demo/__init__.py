# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The data and models that ``llamafactory_clinkd/demo`` ships: ``make demo-models`` draws and trains them anew."""
