"The three stages of a preset, each as a model to be built, a loss, a batch, and what `Trainer` is told."
import torch

from minidiff.alignment import Aligned
from minidiff.latent_diffusion import PRESETS, SCHEDULER, Latents, diffusion_loss, fitted_unet, latent_batches, text_config, vae_config
from minidiff.negatives import contrastive_batches
from minidiff.runs import resized
from minidiff.scheduler import DDPMScheduler
from minidiff.sd_unet import UNet2DConditionModel
from minidiff.sketchbook import Sketchbook
from minidiff.text_encoder import contrastive_loss, small_clip
from minidiff.tokenizer import caption_tokenizer
from minidiff.training import step_generator
from minidiff.vae import small_vae, vae_batches, vae_training_loss


def stage(name, preset, n=8, constant=lambda t: t):
    """Model, loss, one batch of `n` and what `Trainer` is told, of a stage of a preset; batches are real, models are built where one
    asks, and `constant` is applied to what a loss keeps for itself."""
    book, generator = Sketchbook(preset.size), step_generator(0, 0)
    with torch.device("meta"): vae = small_vae(**vae_config(preset))
    channels, tokenizer, side = vae.config.latent_channels, caption_tokenizer(book), preset.size // vae.factor
    scheduler = DDPMScheduler(**SCHEDULER)
    scheduler.alphas_cumprod = constant(scheduler.alphas_cumprod)
    if name == "vae":
        return lambda: small_vae(**vae_config(preset)), vae_training_loss, vae_batches(book, n, channels, vae.factor)(generator), preset.vae_training
    if name == "text":
        config, batch = text_config(preset), contrastive_batches(book, tokenizer, n)(generator)
        batch["images"] = resized(batch["images"], config["size"])
        return lambda: small_clip(tokenizer, **config), contrastive_loss, batch, preset.text_training
    latents = torch.randn(20, channels, side, side)
    widths = text_config(preset).get("widths", (32, 64, 128))
    maps = torch.randn(20, widths[-1], *2 * [text_config(preset)["size"] // 2 ** len(widths)]).bfloat16() if preset.align else None
    data = Latents(latents, latents.square(), torch.randn(21, tokenizer.model_max_length, preset.text.get("width", 128)), maps)
    def make():
        unet = UNet2DConditionModel(**fitted_unet(preset, vae))
        return Aligned(unet, widths[-1]) if preset.align else unet
    return make, diffusion_loss(scheduler, preset.align, preset.huber), latent_batches(data, n, 0.05)(generator), preset.unet_training


STAGES = "vae", "text", "unet"
