#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

# Draws the demo's data and trains its models into runs/demo-models, about an hour of CPU time. The shipped teacher was
# stopped at step 2167 of its first 2500 and began its second schedule twice, so the weights are not reproduced exactly.
# With SHORT=1 every part has 64 pictures and 3 steps: a check that the script runs, in two minutes.
set -euo pipefail
work=${1:-runs/demo-models${SHORT:+-short}}  # apart: a full run must not go on from a short one's checkpoints
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=benchmarks
short=(${SHORT:+--pictures 64 --steps 3})  # the last of two equal options counts
train() { "$python" -m miniature.demo.pretrain_models "$@" --work "$work" "${short[@]}"; }

mkdir -p "$work/stage1"
train tower --pictures 14000 --steps 2000 --peak 1.5e-3
train base --pictures 14000 --steps 1500
train teacher --pictures 14000 --steps 2500
mv "$work/base.safetensors" "$work/teacher.safetensors" "$work/stage1/"
cp "$work"/*.json "$work/stage1/"
train tower --stage 2 --pictures 8000 --steps 900 --peak 1.2e-3
train teacher --stage 2 --pictures 6000 --steps 700 --peak 1.5e-3 --start "$work/stage1/teacher.safetensors"
train base --stage 2 --pictures 4000 --steps 400 --peak 1.5e-3 --start "$work/stage1/base.safetensors"
"$python" -m miniature.demo.train_scorer "$work/scorer" "${short[@]}"
"$python" -m miniature.demo.ship_models "$work" "$work/scorer" "$work/models"
"$python" -m miniature.demo.demo_rows "$work/data"
"$python" -m miniature.demo.blind_answers "$work/data"
