"""T5's encoder and tokenizer against those of transformers, from tiny random configs."""
import json
import random
import shutil
import warnings

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from minidiff.checks import ConfigError, LoadError
from minidiff.sketchbook import Sketchbook
from minidiff.t5 import T5Attention, T5LayerNorm, relative_buckets
from minidiff.text_encoder import T5EncoderModel
from minidiff.tokenizer import T5Tokenizer

# odd heads whose widths do not add up to that of a token; every kind of feed-forward; buckets few, odd and many
CONFIGS = {
    "first T5": dict(vocab_size=60, d_model=24, d_kv=8, d_ff=37, num_layers=2, num_heads=3, feed_forward_proj="relu"),
    "T5 1.1": dict(vocab_size=50, d_model=32, d_kv=5, d_ff=64, num_layers=3, num_heads=5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "few buckets": dict(vocab_size=40, d_model=16, d_kv=16, d_ff=20, num_layers=2, num_heads=1, feed_forward_proj="gated-gelu",
                        relative_attention_num_buckets=8, relative_attention_max_distance=20),
    "an odd number of buckets": dict(vocab_size=40, d_model=20, d_kv=3, d_ff=20, num_layers=2, num_heads=7, feed_forward_proj="gelu",
                                     relative_attention_num_buckets=13, relative_attention_max_distance=9),
    "one block": dict(vocab_size=40, d_model=16, d_kv=4, d_ff=20, num_layers=1, num_heads=2, feed_forward_proj="gated-silu", layer_norm_epsilon=1e-3),
    "silu": dict(vocab_size=40, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=2, feed_forward_proj="silu", relative_attention_num_buckets=64),
    "gated relu": dict(vocab_size=40, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=2, feed_forward_proj="gated-relu")}


def pair(name, seed=0):
    "A model of transformers, and ours with its weights."
    torch.manual_seed(seed)
    config = transformers.T5Config(**CONFIGS[name])
    real = transformers.T5EncoderModel(config).eval()
    table = real.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    torch.nn.init.normal_(table.weight, std=2.0)  # distances must matter
    ours = T5EncoderModel.from_config(config.to_dict()).eval()
    ours.load_state_dict(real.state_dict(), strict=True)
    return ours, real


def rows(model, n, length, seed=0):
    return torch.randint(model.config.vocab_size, (n, length), generator=torch.Generator().manual_seed(seed))


def masks(n, length):
    "None, all ones, padding on the right, on the left, and holes."
    right = (torch.arange(length) < torch.tensor([length, 1 + length // 2, 1, length - 1])[:n, None]).long()
    holes = torch.ones(n, length, dtype=torch.long)
    holes[:, 1::3] = 0
    return {"none": None, "ones": torch.ones(n, length, dtype=torch.long), "right": right, "left": right.flip(1), "holes": holes, "bool": right.bool()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [1, 7, 140])
def test_equal_with_and_without_a_mask(name, length):
    ours, real = pair(name)
    ids = rows(ours, 4, length)
    for mask in masks(4, length).values():
        if mask is not None and not mask.any(1).all(): continue
        a = ours(ids, mask)
        b = real(ids, attention_mask=mask, output_hidden_states=True)
        torch.testing.assert_close(a.last_hidden_state, b.last_hidden_state, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-5)
        assert len(a.hidden_states) == len(b.hidden_states) == CONFIGS[name]["num_layers"] + 1
        for one, other in zip(a.hidden_states, b.hidden_states): torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_equal(name):
    ours, real = pair(name)
    ids, mask = rows(ours, 3, 9), masks(3, 9)["left"]
    weights = torch.randn(3, 9, ours.config.d_model, generator=torch.Generator().manual_seed(1))  # the sum of squares is fixed by the norm
    for model in (ours, real): (model(ids, attention_mask=mask).last_hidden_state * weights).sum().backward()
    theirs = {key: p.grad for key, p in real.named_parameters()}
    own = {key: p.grad for key, p in ours.named_parameters()}
    assert own.keys() == theirs.keys() and "shared.weight" in own and "encoder.embed_tokens.weight" not in own  # one table
    for key, grad in own.items(): torch.testing.assert_close(grad, theirs[key], atol=1e-5 * theirs[key].abs().max().item(), rtol=1e-5)


def test_padding_changes_nothing_where_it_is_masked():
    ours, _ = pair("T5 1.1")
    ids = rows(ours, 1, 6)
    alone = ours(ids).last_hidden_state
    right = ours(torch.cat([ids, ids[:, :3]], 1), torch.tensor([[1] * 6 + [0] * 3])).last_hidden_state[:, :6]
    left = ours(torch.cat([ids[:, :3], ids], 1), torch.tensor([[0] * 3 + [1] * 6])).last_hidden_state[:, 3:]
    for other in (right, left): torch.testing.assert_close(other, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours(torch.cat([ids, ids[:, :3]], 1)).last_hidden_state[:, :6], alone, atol=1e-3)
    assert ours(ids, torch.zeros(1, 6)).last_hidden_state.isfinite().all()  # nobody to look at
    assert ours.half()(ids, torch.tensor([[0] * 5 + [1]])).last_hidden_state.isfinite().all()


def test_order_counts_in_every_block_and_both_ways():
    ours, _ = pair("first T5")
    ids = torch.tensor([[4, 5, 6, 7]])
    changed = torch.tensor([[4, 5, 6, 8]])
    assert ((ours(ids)[0] - ours(changed)[0]).abs().amax(-1) > 1e-4).all()  # the first token hears the last
    turned = ours(ids.flip(1))[0].flip(1)
    assert not torch.allclose(ours(ids)[0], turned, atol=1e-3)
    with torch.no_grad(): ours.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    torch.testing.assert_close(ours(ids)[0], ours(ids.flip(1))[0].flip(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_buckets, far", [(32, 128), (8, 20), (13, 9), (4, 2), (5, 7), (64, 1000), (7, 128), (128, 33), (31, 129)])
def test_buckets_are_those_of_transformers(num_buckets, far):
    from transformers.models.t5.modeling_t5 import T5Attention as Real
    distance = torch.arange(-3000, 3001)
    assert torch.equal(relative_buckets(distance, num_buckets, far), Real._relative_position_bucket(distance, True, num_buckets, far))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_norm_is_that_of_transformers(dtype):
    from transformers.models.t5.modeling_t5 import T5LayerNorm as Real
    x = 30 * torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, real = T5LayerNorm(16).to(dtype), Real(16).to(dtype)
    torch.nn.init.uniform_(real.weight)
    ours.load_state_dict(real.state_dict(), strict=True)
    assert torch.equal(ours(x), real(x)) and ours(x).dtype == dtype


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_does_not_overflow(name):
    """What is too large for half precision is held at its end, as in transformers: the real T5s are."""
    ours, real = pair(name)
    with torch.no_grad():
        for model in (ours, real): model.encoder.block[0].layer[1].DenseReluDense.wo.weight.mul_(3e5 if name != "silu" else 3e4).clamp_(-6e4, 6e4)
    ids = rows(ours, 3, 7)
    a, b = ours.half()(ids), real.half()(ids, output_hidden_states=True)
    assert a[0].isfinite().all() and b[0].isfinite().all()
    if len(a.hidden_states) > 2: assert a.hidden_states[1].abs().max() == 64504 == b.hidden_states[1].abs().max()
    torch.testing.assert_close(a[0], b[0], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", CONFIGS)
def test_folders_open_in_both(name, tmp_path):
    ours, real = pair(name)
    ours.save_pretrained(tmp_path / "ours")
    real.save_pretrained(tmp_path / "theirs")
    back, info = transformers.T5EncoderModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    again = T5EncoderModel.from_pretrained(tmp_path / "theirs")
    ids = rows(ours, 2, 5)
    for model in (back.eval(), again): torch.testing.assert_close(model(ids)[0], ours(ids)[0], atol=1e-5, rtol=1e-5)
    assert again.shared.weight is again.encoder.embed_tokens.weight
    assert again.config == ours.config and json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "t5"
    real.load_state_dict(ours.state_dict(), strict=True)


def test_a_whole_t5_opens_too(tmp_path):
    torch.manual_seed(0)
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config(**CONFIGS["T5 1.1"])).eval()
    whole.save_pretrained(tmp_path)
    ours = T5EncoderModel.from_pretrained(tmp_path)
    ids = rows(ours, 2, 5)
    torch.testing.assert_close(ours(ids)[0], whole.encoder(ids)[0], atol=1e-5, rtol=1e-5)


def test_the_config_of_stable_diffusion_3_is_read():
    "The keys of text_encoder_3/config.json in Stable Diffusion 3 and of text_encoder_2's in Flux."
    config = {"_name_or_path": "google/t5-v1_1-xxl", "architectures": ["T5EncoderModel"], "classifier_dropout": 0.0, "d_ff": 10240, "d_kv": 64,
              "d_model": 4096, "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "eos_token_id": 1,
              "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True, "is_gated_act": True,
              "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_decoder_layers": 24, "num_heads": 64, "num_layers": 24, "output_past": True,
              "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
              "torch_dtype": "float16", "transformers_version": "4.41.2", "use_cache": True, "vocab_size": 32128}
    with torch.device("meta"): model = T5EncoderModel.from_config(config)
    with torch.device("meta"): real = transformers.T5EncoderModel(transformers.T5Config(**config))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}


def test_fresh_weights_are_drawn_as_in_transformers():
    config = transformers.T5Config(vocab_size=500, d_model=128, d_kv=32, d_ff=300, num_layers=2, num_heads=6, feed_forward_proj="gated-gelu", initializer_factor=0.5)
    torch.manual_seed(0)
    real = dict(transformers.T5EncoderModel(config).named_parameters())
    for name, p in T5EncoderModel.from_config(config.to_dict()).named_parameters():
        if p.ndim == 1: assert torch.equal(p, real[name])
        elif p.numel() > 1000: assert abs(p.std() / real[name].std() - 1) < 0.1, name


def test_dropout_is_for_training_alone():
    ours, _ = pair("T5 1.1")
    ids = rows(ours, 2, 8)
    assert torch.equal(ours(ids)[0], ours(ids)[0])
    ours.train()
    assert not torch.equal(ours(ids)[0], ours(ids)[0])


@pytest.mark.parametrize("args, message", [
    ((torch.zeros(1, 3),), "input_ids: expected a tensor"), (([[1, 2]],), "input_ids: expected a tensor"), ((torch.zeros(3, dtype=torch.long),), "input_ids: expected a tensor"),
    ((torch.zeros(1, 0, dtype=torch.long),), "at least one id"), ((torch.tensor([[50]]),), "from 0 to 49, got 50"), ((torch.tensor([[-1]]),), "got -1"),
    ((torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4)), "attention_mask: expected a tensor"), ((torch.zeros(2, 3, dtype=torch.long), torch.ones(3)), "attention_mask"),
    ((torch.zeros(2, 3, dtype=torch.long), [[1, 1, 1]]), "attention_mask"), ((torch.zeros(2, 3, dtype=torch.uint8),), "input_ids: expected int64 or int32, got torch.uint8")])
def test_what_it_cannot_read(args, message):
    ours, _ = pair("T5 1.1")
    with pytest.raises(ValueError, match=message): ours(*args)


@pytest.mark.parametrize("key, value", [("d_kv", 0), ("num_layers", 0), ("relative_attention_num_buckets", 3), ("relative_attention_max_distance", 8),
                                        ("feed_forward_proj", "gated"), ("feed_forward_proj", "tanh"), ("dropout_rate", 1.5), ("layer_norm_epsilon", -1),
                                        ("vocab_size", "many"), ("d_model", 2.5), ("initializer_factor", None), ("heads", 4)])
def test_a_config_that_cannot_be_built(key, value):
    with pytest.raises(ConfigError, match=key): T5EncoderModel.from_config({**CONFIGS["T5 1.1"], key: value})


def test_weights_that_do_not_fit(tmp_path):
    ours, _ = pair("T5 1.1")
    ours.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "feed_forward_proj": "relu"}))
    with pytest.raises(LoadError, match="do not fit"): T5EncoderModel.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------ the tokenizer

@pytest.fixture(scope="module")
def captions():
    book, generator = Sketchbook(32), torch.Generator().manual_seed(0)
    return book.caption(book.sample_scenes(300, generator), generator)[0]


def make(captions, normalizer=None):
    backend = Tokenizer(models.Unigram())
    if normalizer: backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", "always")])
    backend.decoder = decoders.Metaspace("▁", "always")
    backend.train_from_iterator(captions, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5Tokenizer(backend, 40)


@pytest.fixture
def tokenizer(captions): return make(captions)


ODD = ["", " ", "a  RED\tStar", "日本語 🎨", "<pad> x </s> y", "naïve café ﬁ", "x" * 70, " a red ", "a\nb", "▁a red", "it's 3.14, isn't it?"]


@pytest.mark.parametrize("normalizer, real_class", [(None, "AutoTokenizer"), (None, "PreTrainedTokenizerFast"), (normalizers.NFKC(), "PreTrainedTokenizerFast")])
def test_ids_are_those_of_transformers(normalizer, real_class, captions, tmp_path):
    tokenizer = make(captions, normalizer)  # (transformers' own T5Tokenizer does not read a normalizer but its own)
    tokenizer.save_pretrained(tmp_path / "ours")
    real = getattr(transformers, real_class).from_pretrained(tmp_path / "ours")
    real.save_pretrained(tmp_path / "theirs")
    both = [tokenizer, T5Tokenizer.from_pretrained(tmp_path / "ours"), T5Tokenizer.from_pretrained(tmp_path / "theirs")]
    pick = random.Random(0)
    letters = "aabcdeerst  .,'-é日🎨\t"
    texts = captions[:60] + ODD + ["".join(pick.choices(letters, k=pick.randrange(30))) for _ in range(200)]
    for settings in (dict(padding="max_length"), dict(padding="max_length", max_length=12), dict(padding=True, max_length=5), dict(max_length=9)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = real(texts, truncation=True, **settings)
            for ours in both:
                found = ours(texts, **settings)
                assert found.input_ids == theirs["input_ids"] and found.attention_mask == theirs["attention_mask"]
    for row in theirs["input_ids"]:
        for skip in (False, True): assert tokenizer.decode(row, skip) == real.decode(row, skip_special_tokens=skip)


def test_as_a_pipeline_asks_for_it(tokenizer):
    rows = tokenizer(["a red star", "a blue circle above a green heart"], padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    assert rows.input_ids.shape == rows.attention_mask.shape == (2, 64) and rows.input_ids.dtype == torch.long
    ends = rows.attention_mask.sum(1) - 1
    assert rows.input_ids[[0, 1], ends].tolist() == [1, 1] and (rows.input_ids[rows.attention_mask == 0] == 0).all()
    assert tokenizer.batch_decode(rows.input_ids, skip_special_tokens=True) == ["a red star", "a blue circle above a green heart"]
    with pytest.warns(UserWarning, match="before the end token"): short = tokenizer("a red star " * 9, max_length=6).input_ids
    assert len(short) == 6 and short[-1] == tokenizer.eos_token_id


def test_the_tokenizer_says_what_is_wrong(tokenizer, tmp_path):
    for text in (3, None, ["a", 4]):
        with pytest.raises(ValueError, match="text must be"): tokenizer(text)
    with pytest.raises(ValueError, match="padding is one of"): tokenizer("a", padding="maxlength")
    with pytest.raises(ValueError, match="make no\\s+tensor"): tokenizer(["a", "a red star"], return_tensors="pt")
    with pytest.raises(ValueError, match="ids: expected one row"): tokenizer.decode([10 ** 6])
    with pytest.raises(ValueError, match="max_length"): tokenizer("a", max_length=1)
    with pytest.raises(ConfigError, match="pad_token"): T5Tokenizer(tokenizer.backend, pad_token="<none>")
    for backend in (None, "x", Tokenizer):
        with pytest.raises(ConfigError, match="backend: expected a tokenizers.Tokenizer"): T5Tokenizer(backend)
    with pytest.raises(LoadError, match="no tokenizer.json"): T5Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LoadError, match="can be read"): T5Tokenizer.from_pretrained(tmp_path)


def test_a_subfolder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer_3")
    assert T5Tokenizer.from_pretrained(tmp_path, subfolder="tokenizer_3")("a red star").input_ids == tokenizer("a red star").input_ids
    shutil.rmtree(tmp_path / "tokenizer_3")


def test_the_parts_are_not_named_twice():
    assert T5Attention.__module__ == "minidiff.t5" and T5EncoderModel.__module__ == "minidiff.text_encoder"
