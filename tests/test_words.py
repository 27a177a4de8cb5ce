"""The image encoder, its folder, and the pieces that the tokenizer grows from."""
import pytest
import torch

from minidiff.checks import ConfigError, LoadError
from minidiff.sketchbook import Sketchbook
from minidiff.negatives import contrastive_batches
from minidiff.negatives import caption_scores, pick_caption
from minidiff.text_encoder import CLIPTextModel, ImageEncoder, TextAndPictures, contrastive_loss, small_clip
from minidiff.tokenizer import (CLIPTokenizer, apply_merges, caption_tokenizer, clean, learn_merges, spell, split_words,
                                train_bpe, vocabulary)
from minidiff.training import seed_all

SMALL = dict(width=16, layers=1, widths=(8, 8))


@pytest.fixture(scope="module")
def book(): return Sketchbook(32)


@pytest.fixture(scope="module")
def tokenizer(book): return caption_tokenizer(book, n=500)


@pytest.fixture
def model(tokenizer):
    seed_all(0)
    return small_clip(tokenizer, 32, **SMALL).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_halves_compare_as_before_when_loaded_from_their_folders(book, tokenizer, model, dtype, tmp_path):
    model.text_model.to(dtype).save_pretrained(tmp_path / "text_encoder")
    model.image_encoder.to(dtype).save_pretrained(tmp_path / "image_encoder")
    text = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    pictures = ImageEncoder.from_pretrained(tmp_path, subfolder="image_encoder")
    again = TextAndPictures(text, pictures)
    assert torch.equal(caption_scores(again, tokenizer, book, 20), caption_scores(model.float(), tokenizer, book, 20))
    assert again.logit_scale is pictures.logit_scale and pictures.config == model.image_encoder.config


def test_saved_parts_suffice_for_the_cosine_of_a_caption_and_a_picture(book, tokenizer, model):
    images, captions, _ = book.draw(3, torch.Generator().manual_seed(0))
    ids = tokenizer(captions, padding="longest", return_tensors="pt").input_ids
    v, t = model.image_encoder(images), model.image_encoder.text_features(model.text_model(ids).pooler_output)
    cosines = torch.nn.functional.cosine_similarity(v, t)
    torch.testing.assert_close((model.embed_images(images) * model.embed_text(ids)).sum(-1), cosines)


def test_the_temperature_is_one_weight_and_is_trained(book, tokenizer, model):
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "logit_scale" and "image_encoder.logit_scale" not in names
    batch = contrastive_batches(book, tokenizer, 8)(torch.Generator().manual_seed(0))
    contrastive_loss(model.train(), batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_scores_hold_the_right_caption_first(book, tokenizer, model):
    scores = caption_scores(model, tokenizer, book, 30, rivals=3)
    assert scores.shape == (4, 30) and scores.abs().max() <= 1 + 1e-5
    with pytest.raises(ValueError, match="rivals"): pick_caption(model, tokenizer, book, 30, rivals=0)


def test_who_says_the_same_of_all_is_never_right(book, tokenizer, model):
    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
        def embed_images(self, images): return torch.ones(len(images), 1)
        def embed_text(self, ids): return torch.ones(len(ids), 1)
    assert pick_caption(Same(), tokenizer, book, 20) == 0


@pytest.mark.parametrize("key, value", [
    ("widths", 3), ("widths", ()), ("widths", (8, "a")), ("widths", (8,) * 6), ("widths", (8, 12.5)), ("groups", 3), ("groups", 0),
    ("image_size", 30), ("image_size", None), ("projection_dim", 0), ("text_hidden_size", "16")])
def test_an_image_encoder_that_cannot_be_built_names_the_key(key, value):
    with pytest.raises(ConfigError, match="image_size" if value == (8,) * 6 else key):
        ImageEncoder(**{**dict(widths=(8, 8, 8)), key: value})


def test_a_wrong_input_of_the_image_encoder_is_named(model):
    encoder = model.image_encoder
    for x in (None, torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 31), torch.zeros(1, 3, 32, 32).half()):
        with pytest.raises(ValueError, match="images"): encoder(x)
    for x in (None, torch.zeros(16), torch.zeros(1, 15), torch.zeros(1, 16).long()):
        with pytest.raises(ValueError, match="pooled"): encoder.text_features(x)


def test_a_folder_of_another_model_is_no_image_encoder(model, tmp_path):
    model.text_model.save_pretrained(tmp_path)
    with pytest.raises((ConfigError, LoadError)): ImageEncoder.from_pretrained(tmp_path)


def test_the_plain_pieces_make_the_tokenizer(book):
    captions = book.draw(200, torch.Generator().manual_seed(0))[1]
    words = [word for caption in captions for word in split_words(clean(caption))]
    counts = {spell(word): words.count(word) for word in words}
    merges = learn_merges(counts, 60)
    assert len(merges) == 60 and (vocabulary(merges), merges) == train_bpe(captions, 514 + 60)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokenizer = CLIPTokenizer(vocabulary(merges), merges)
    for caption in captions[:20]:
        plain = [t for word in split_words(clean(caption)) for t in apply_merges(spell(word), ranks)]
        assert tokenizer.tokenize(caption) == plain
    assert learn_merges({("a",): 3}, 10) == [] and apply_merges(("a",), {}) == ("a",)
