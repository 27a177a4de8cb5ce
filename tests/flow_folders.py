"""Tiny random folders of Stable Diffusion 3 and of Flux, made by diffusers, for the tests."""
import diffusers
import torch
import transformers

from minidiff.tokenizer import CLIPTokenizer, T5Tokenizer, train_bpe

PROMPT, OTHER = "a small red star above a blue square", "on a black background, a yellow heart"
VAE = dict(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=16,
           norm_num_groups=4, sample_size=32, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609)
SD3 = dict(sample_size=16, patch_size=2, in_channels=16, num_layers=3, attention_head_dim=8, num_attention_heads=3, joint_attention_dim=64,
           caption_projection_dim=24, pooled_projection_dim=20 + 12, out_channels=16, pos_embed_max_size=24)
FLUX = dict(in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=64,
            pooled_projection_dim=32, axes_dims_rope=(4, 4, 8))


def clip(folder, kind=transformers.CLIPTextModel, width=32, projection=20):
    CLIPTokenizer(*train_bpe([PROMPT, OTHER] * 3, 600)).save_pretrained(folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = transformers.CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
                                         num_attention_heads=4, projection_dim=projection, **ids)
    return tokenizer, kind(config).eval()


def t5(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", "always")])
    backend.decoder = decoders.Metaspace("▁", "always")
    backend.train_from_iterator([PROMPT, OTHER] * 3, trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    T5Tokenizer(backend).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vocab = backend.get_vocab_size()
    config = transformers.T5Config(vocab_size=vocab, d_model=64, d_kv=8, d_ff=96, num_layers=2, num_heads=4,
                                   feed_forward_proj="gated-gelu", dropout_rate=0.1)
    return tokenizer, transformers.T5EncoderModel(config).eval()


def stir(model, seed=3):
    "Weights large enough that every input is felt."
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim > 1: p.data = torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5
    return model.eval()


def sd3(folder, third=True, scheduler=None, **config):
    torch.manual_seed(0)
    projected = transformers.CLIPTextModelWithProjection
    one, two = clip(folder / "1", projected), clip(folder / "2", projected, 24, 12)
    three = t5(folder / "3") if third else (None, None)
    pipe = diffusers.StableDiffusion3Pipeline(
        stir(diffusers.SD3Transformer2DModel(**SD3 | config)), diffusers.FlowMatchEulerDiscreteScheduler(**scheduler or dict(shift=3.0)),
        diffusers.AutoencoderKL(**VAE).eval(), one[1], one[0], two[1], two[0], three[1], three[0])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(folder, scheduler=None, **config):
    torch.manual_seed(0)
    one, two = clip(folder / "1"), t5(folder / "2")
    pipe = diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(**scheduler or dict(shift=3.0, use_dynamic_shifting=True)), diffusers.AutoencoderKL(**VAE).eval(),
        one[1], one[0], two[1], two[0], stir(diffusers.FluxTransformer2DModel(**FLUX | config)))
    pipe.set_progress_bar_config(disable=True)
    return pipe
