"""Everything that a selection depends on."""

from pydantic import BaseModel, ConfigDict

from deita_core.alignment.rank_model import RankModelFiles
from deita_core.config.settings import SelectionSettings
from deita_core.literals import Axis
from deita_core.models.encoder_spec import EncoderFiles
from deita_core.scorers import ScorerFiles
from deita_core.stages.contamination import Excluded
from deita_core.stages.token_counts import TokenizerFiles


class Job(BaseModel):
    """Everything a selection depends on: the files, the models, and the settings."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    file_ids: tuple[str, ...]
    encoder: EncoderFiles
    complexity: ScorerFiles
    quality: ScorerFiles
    # More scorers of both axes, combined with the first ones.
    also: tuple[ScorerFiles, ...] = ()
    # Scores the quality of the best samples again.
    refine: ScorerFiles | None = None
    # Counts tokens, where the settings ask for a budget or an order in tokens.
    tokenizer: TokenizerFiles | None = None
    # Gives the losses of answers, where the order is one by them.
    rank_model: RankModelFiles | None = None
    # The key of the encoded examples of tasks.
    examples: str | None = None
    # Ids of the samples that are always and never selected.
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    # Benchmarks whose questions must not be selected.
    exclude: Excluded | None = None
    settings: SelectionSettings

    def scorers(self, axis: Axis) -> list[ScorerFiles]:
        """The scorers of an axis, as in the settings."""
        first = self.complexity if axis == "complexity" else self.quality
        return [first, *(scorer for scorer in self.also if scorer.axis == axis)]

    @property
    def all_scorers(self) -> list[ScorerFiles]:
        """The scorers of both axes, and that which scores the best again."""
        return [*self.scorers("complexity"), *self.scorers("quality"), *([self.refine] if self.refine else [])]
