"""Text towers: shapes, padding, local folders, and a full-size BERT at 244 tokens."""

from __future__ import annotations

import pytest
import torch

from ecgecho.nn.heads import GaussianHead
from ecgecho.nn.text import PAPER_TOKENS, BertText, SmallText
from ecgecho.types import UserError

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def tiny(**more) -> BertText:
    from transformers import BertConfig

    return BertText.from_config(BertConfig(**SIZES, max_position_embeddings=20, **more)).eval()


def batch(num_tokens: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 50, (3, num_tokens), generator=torch.Generator().manual_seed(0))
    valid = torch.arange(num_tokens) < torch.tensor([num_tokens, 4, 1])[:, None]
    return ids.masked_fill(~valid, 0), valid


@pytest.mark.parametrize("make", [tiny, lambda: SmallText(50, 32).eval()])
@torch.no_grad()
def test_padding_has_no_effect_on_a_pooled_text(make):
    torch.manual_seed(0)
    tower, (ids, valid) = make(), batch()
    head = GaussianHead(tower.width, 16).eval()
    short = head(tower(ids, valid), valid)
    wide_ids, wide_valid = torch.nn.functional.pad(ids, (0, 6), value=7), torch.nn.functional.pad(valid, (0, 6))
    padded = head(tower(wide_ids, wide_valid), wide_valid)
    torch.testing.assert_close(padded.mean, short.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded.logvar, short.logvar, rtol=1e-4, atol=1e-5)


def test_a_text_without_tokens_gives_finite_values_and_gradients():
    torch.manual_seed(0)
    tower, (ids, valid) = SmallText(50, 32), batch()
    valid[1] = False
    tokens = tower(ids, valid)
    tokens.square().mean().backward()
    assert torch.isfinite(tokens).all()
    assert all(torch.isfinite(p.grad).all() for p in tower.parameters())


@pytest.mark.parametrize("make", [tiny, lambda: SmallText(50, 32, max_tokens=20)])
def test_a_text_that_is_too_long_is_refused(make):
    with pytest.raises(UserError, match="longer than the 20"):
        make()(torch.ones(1, 21, dtype=torch.int64), torch.ones(1, 21, dtype=torch.bool))


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin_of_another_task"])
@torch.no_grad()
def test_a_local_folder_gives_the_same_tokens(tmp_path, form):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tower, (ids, valid) = tiny(), batch()
    tower.backbone.config.save_pretrained(tmp_path)
    state = {key: value.contiguous() for key, value in tower.backbone.state_dict().items()}
    if form == "safetensors":
        save_file(state, tmp_path / "model.safetensors")
    elif form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        old = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for key, v in state.items()
        }
        kept = {f"bert.{key}": value for key, value in old.items() if not key.startswith("pooler.")}
        torch.save({**kept, "cls.predictions.bias": torch.zeros(50)}, tmp_path / "pytorch_model.bin")
    loaded = BertText.from_folder(tmp_path).eval()
    torch.testing.assert_close(loaded(ids, valid), tower(ids, valid))


def test_a_folder_that_is_no_bert_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        BertText.from_folder(tmp_path)
    tiny().backbone.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="pytorch_model"):
        BertText.from_folder(tmp_path)
    torch.save({"bert.embeddings.word_embeddings.weight": torch.zeros(51, 32)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="word_embeddings"):
        BertText.from_folder(tmp_path)


@torch.no_grad()
def test_a_full_size_bert_takes_244_tokens():
    from transformers import BertConfig

    tower = BertText.from_config(BertConfig(vocab_size=28996)).eval()
    assert sum(p.numel() for p in tower.parameters()) == 108_310_272
    ids = torch.randint(1, 28996, (1, PAPER_TOKENS), generator=torch.Generator().manual_seed(0))
    tokens = tower(ids, torch.ones(1, PAPER_TOKENS, dtype=torch.bool))
    assert tokens.shape == (1, PAPER_TOKENS, 768)
    assert torch.isfinite(tokens).all()
