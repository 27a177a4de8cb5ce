"""CLIP's classes against those of transformers, from tiny random configs: both activations, both conventions of the end token, with and without a mask, and folders both ways."""
import pytest
import torch
import transformers

from minidiff import text_encoder

TOWER = dict(hidden_size=30, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, projection_dim=12)
CLASSES = "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel", "CLIPModel"
FIELDS = "last_hidden_state", "pooler_output", "text_embeds", "image_embeds", "logits_per_image", "logits_per_text"
LEGACY, END = 2, 47  # with 2 in the config the highest id ends a text, in any other the first end token


@pytest.fixture(scope="module", params=[(act, end) for act in ("quick_gelu", "gelu") for end in (LEGACY, END)], ids=str)
def whole(request, tmp_path_factory):
    """transformers' CLIP with weights that matter, and its folder."""
    act, end = request.param
    torch.manual_seed(0)
    words = dict(TOWER, vocab_size=50, max_position_embeddings=9, hidden_act=act, bos_token_id=46, eos_token_id=end, pad_token_id=1)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=words, vision_config=dict(TOWER, image_size=18, patch_size=8, hidden_act=act), projection_dim=12)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.1 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return model, folder


def inputs():
    """Rows where the two conventions differ: after the first end token (47) stands a higher id, or a second end token."""
    ids = torch.randint(3, 45, (4, 9), generator=torch.Generator().manual_seed(0))
    ids[:, 5] = END
    ids[0, 7], ids[1, 8] = 49, END
    ids[2, 3] = LEGACY
    return ids, torch.randn(3, 3, 18, 18, generator=torch.Generator().manual_seed(1))


def masks():
    right, left, holes = (torch.ones(4, 9, dtype=torch.long) for _ in range(3))
    right[:, 8:] = 0
    left[:, :2] = 0
    holes[:, [2, 4]] = 0
    return {"none": None, "ones": torch.ones(4, 9, dtype=torch.long), "right": right, "left": left, "holes": holes}


def outputs(model, name, mask=None):
    ids, pictures = inputs()
    about = {"CLIPVisionModel": dict(pixel_values=pictures), "CLIPModel": dict(input_ids=ids, pixel_values=pictures, attention_mask=mask)}
    return model.eval()(**about.get(name, dict(input_ids=ids, attention_mask=mask)))


def same(a, b, mask=None):
    seen = 0
    for field in FIELDS:
        one, other = getattr(a, field, None), getattr(b, field, None)
        if one is None or other is None: continue
        if field == "last_hidden_state" and mask is not None: one, other = (x[mask.cumsum(1) > 0] for x in (one, other))  # before, nobody sees anything
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        seen += 1
    assert seen >= 1


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_opens_the_whole_folder_and_is_equal(name, mask, whole):
    _, folder = whole
    ours, real = getattr(text_encoder, name).from_pretrained(folder), getattr(transformers, name).from_pretrained(folder)
    mask = None if "Vision" in name else masks()[mask]
    same(outputs(ours, name, mask), outputs(real, name, mask), mask)


@pytest.mark.parametrize("name", CLASSES)
def test_strict_both_ways_and_folders_of_ours_open_in_transformers(name, whole, tmp_path):
    _, folder = whole
    cls, real_cls = getattr(text_encoder, name), getattr(transformers, name)
    ours, real = cls.from_pretrained(folder), real_cls.from_pretrained(folder)
    names = cls.weights_from_file(real.state_dict())
    ours.load_state_dict(names, strict=True)
    assert names.keys() == ours.state_dict().keys()
    ours.save_pretrained(tmp_path)
    back, info = real_cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert back.state_dict().keys() == real.state_dict().keys() and all(torch.equal(v, real.state_dict()[k]) for k, v in back.state_dict().items())
    same(outputs(ours, name), outputs(back, name))


def test_the_two_conventions_pool_at_different_places(whole):
    model, folder = whole
    ids, _ = inputs()
    end = model.config.text_config.eos_token_id
    places = text_encoder.CLIPTextModel.from_pretrained(folder).end_positions(ids)
    assert places.tolist() == ([7, 5, 5, 5] if end == LEGACY else [5, 5, 5, 5])


def test_texts_and_masks_that_do_not_fit(whole):
    model = text_encoder.CLIPModel.from_pretrained(whole[1])
    ids, pictures = inputs()
    for reason, args in {"input_ids: expected numbers from 0 to 49, got 52": (ids + 3, pictures), "input_ids must have at most 9": (torch.cat([ids, ids], 1), pictures),
                         "attention_mask": (ids, pictures, torch.ones(3, 9)), "pixel_values: expected a tensor": (ids, pictures[:, :1]), "input_ids: expected a tensor": (ids.float(), pictures)}.items():
        with pytest.raises(ValueError, match=reason) as error: model(*args)
        assert "\n" not in str(error.value)
