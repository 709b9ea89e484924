"""Settings that would give a wrong run are refused before any work."""

import pytest

from ecgecho.train import make_recipe
from ecgecho.types import UsageError


@pytest.mark.parametrize("word", ["seed=-1", "data.window_days=-4", "optim.learning_rate=NaN", "optim.clip_norm=Infinity"])
def test_a_number_out_of_its_bounds_is_refused_by_name(word):
    with pytest.raises(UsageError, match=word.partition("=")[0].rpartition(".")[2]):
        make_recipe("ecg_clip", "small", [word])
