"The critic of the stickers reads any picture, also one where something stands out at the very edge."
import pytest
import torch
import torch.nn.functional as F

from minidiff.stickers import StickerBook


@pytest.mark.parametrize("seed", [8, 12, 20])
def test_stains_up_to_the_edge(seed):
    book = StickerBook(64)
    pages, _, scenes = book.draw(64, torch.Generator().manual_seed(0))
    stains = F.interpolate(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(seed)), (64, 64), mode="bilinear")
    stained = (pages + 0.3 * stains * (stains > 0.8)).clamp(-1, 1)
    critic = book.critic()
    assert critic.read(stained).n_objects.shape == (64,)
    assert critic.score(stained, scenes)["whole"] < 0.5 < 0.98 < critic.score(pages, scenes)["whole"]
