# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a run consists of, as far as the known problems of some versions depend on it; a fact is read when needed."""

import functools
import inspect
from typing import Any

from ..phases.recipe import teacher_place
from ..phases.recipe_files import check_datasets
from ..rope.binding import SUPPORTED
from ..rope.saved_positions import same_positions, settings_of_run, teacher_settings


class RunFacts:
    """Facts about the run of parsed arguments (``phases.recipe.RecipeArguments``)."""

    def __init__(self, arguments: Any) -> None:
        self._arguments = arguments
        self._model, self._finetuning = arguments.model, arguments.finetuning

    @property
    def flash_attention(self) -> bool:
        """Whether LLaMA-Factory runs a model with a FlashAttention kernel; it chooses one for Gemma 2 by itself."""
        from transformers.utils import is_flash_attn_2_available

        chosen = str(getattr(self._model.flash_attn, "value", self._model.flash_attn))
        by_itself = chosen == "auto" and is_flash_attn_2_available()
        return chosen in ("fa2", "fa3") or (by_itself and "gemma2" in self.model_types)

    @functools.cached_property
    def _models(self) -> list[tuple[str, bool]]:
        """Model type, and whether positions are stock's, of the student and of the teacher if a phase uses one."""
        models = [(self._model, settings_of_run(self._model, self._finetuning))]
        if (teacher := teacher_place(self._model, self._finetuning)) is not None:
            models.append((teacher, teacher_settings(teacher, self._finetuning)))
        return [(self._model_type(model.model_name_or_path), same_positions(found, None)) for model, found in models]

    def _model_type(self, name: str) -> str:
        from transformers import PreTrainedConfig

        where = {"cache_dir": self._model.cache_dir, "revision": self._model.model_revision}
        try:
            config, _ = PreTrainedConfig.get_config_dict(name, **where, token=self._model.hf_hub_token)
        except OSError:  # loading the model raises a more precise error
            return ""
        return config.get("model_type", "")

    @property
    def model_types(self) -> set[str]:
        """Model types of student and teacher."""
        return {model_type for model_type, _ in self._models}

    @property
    def stock_positions(self) -> set[str]:
        """Model types of those whose positions transformers computes itself."""
        return {model_type for model_type, stock in self._models if stock}

    @property
    def videos(self) -> bool:
        """Whether a data set has a column of videos; ``ValueError`` if the recipe names one that does not exist."""
        from llamafactory.data.parser import get_dataset_list

        data = self._arguments.data
        check_datasets(data)
        names = [*(data.dataset or []), *(data.eval_dataset or [])]
        return any(each.videos for each in get_dataset_list(names, data.dataset_dir))

    @property
    def initialises_tokens_wrongly(self) -> bool:
        """Whether tokens are added by a LLaMA-Factory that does not know where their rows are."""
        from llamafactory.model.model_utils.embedding import resize_embedding_layer

        added = self._model.add_tokens or self._model.add_special_tokens
        return bool(added) and "new_tokens" not in inspect.signature(resize_embedding_layer).parameters

    def check_architecture(self) -> None:
        """Raises ``ValueError`` if positions are set on an architecture that has none of the kind.

        The student's loading would raise it too, after a phase that took hours.
        """
        variant = (settings_of_run(self._model, self._finetuning) or {}).get("variant", "mrope")
        model_type = self._models[0][0]
        if variant != "mrope" and model_type and model_type not in SUPPORTED.values():
            raise ValueError(
                f"`rope_variant: {variant}` needs a model of the type {', '.join(SUPPORTED.values())}; "
                f"`model_name_or_path: {self._model.model_name_or_path}` is of the type {model_type}. "
                "Set `rope_variant: mrope` and `image_square: false`, or use such a model."
            )
