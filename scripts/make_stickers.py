"""Make minidiff/data/stickers: one sheet of sprites cut from the installed Noto Color Emoji font, their names, and the font's licence.

    apt install fonts-noto-color-emoji
    python scripts/make_stickers.py

The names are those of the Unicode standard. Left out are pictures that are hard to tell apart when they are thirteen pixels wide, grey ones that vanish on
the grey page, and names that do not follow "a" or "an"."""
import argparse
import json
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

root = Path(__file__).resolve().parent.parent
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LICENCE = Path("/usr/share/doc/fonts-noto-color-emoji/copyright")
SIDE, COLUMNS = 64, 16  # pixels of a sprite, sprites in a row
CHARACTERS = """
🐶🐱🐹🦊🐻🐼🐨🐯🦁🐮🐷🐸🐵🐔🐧🐦🐤🦆🦉🐗🐴🐝🐛🦋🐌🐞🐢🐍🦎🐙🦑🦐🦀🐡🐠🐟🐬🐊🐪🦒🐓🦃🦜🦔🐲🦇🦚🦘🐿
🌵🎄🌲🌳🌴🌱🍀🍁🍄🌹🌻🌷🍏🍎🍐🍊🍋🍌🍉🍓🍑🥭🍍🥥🥝🍅🍆🥑🥦🌶🌽🥕🥐🥨🧀🥚🍔🍕🌮🌭🍙🍩🍪🎂🧁🍯🍺🍫🍞
⚽🏀🏈🎺🎨🎲🧩🧸🎩👟📦🎀🎯🚗🚕🚌🚑🚒🚜🛵🚂🚀🚁⛵🏠⛺🌋🌈🌙🔥💧🎈🎁🏆👑💎🔑🔔📷📕✏🧲⏰🧭👻👽🎃🌞🛑🧽🔦📌🚦"""


def sprite(character, font):
    """One emoji, as large as fits into a square with a thin margin."""
    page = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(page).text((10, 10), character, font=font, embedded_color=True)
    page = page.crop(page.getbbox())
    scale = (SIDE - 4) / max(page.size)
    page = page.resize([max(1, round(length * scale)) for length in page.size], Image.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(page, [(SIDE - length) // 2 for length in page.size])
    return square


def main():
    characters = [c for c in CHARACTERS if not c.isspace()]
    names = [unicodedata.name(c).lower() for c in characters]
    assert len(set(names)) == len(names)
    font = ImageFont.truetype(str(FONT), 109)  # the one size that the font holds
    sheet = Image.new("RGBA", (SIDE * COLUMNS, SIDE * -(-len(characters) // COLUMNS)))
    for i, character in enumerate(characters):
        sheet.paste(sprite(character, font), (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    folder = root / "minidiff" / "data" / "stickers"
    folder.mkdir(exist_ok=True)
    sheet.quantize(256, method=Image.Quantize.FASTOCTREE).save(folder / "sheet.png", optimize=True)
    (folder / "names.json").write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")
    text = LICENCE.read_text(encoding="utf-8")
    licence = "\n".join(line[1:] if line[1:] != "." else "" for line in text[text.index(" This Font Software"):].splitlines())
    copyright = "The stickers are cut from the Noto Color Emoji font, https://github.com/googlefonts/noto-emoji\nCopyright 2013-2017 Google Inc.\n\n"
    (folder / "LICENSE").write_text(copyright + licence.split("\nLicense:")[0].rstrip() + "\n", encoding="utf-8")
    print(f"{len(names)} stickers, {(folder / 'sheet.png').stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
