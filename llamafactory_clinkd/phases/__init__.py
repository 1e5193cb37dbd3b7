# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The phases of the ClinKD procedure, each one stock run; :mod:`.runner` runs those of a recipe."""
