// Shortened names of stickers, completed where they can be only one: `complete_names` of
// the workshop's page on stickers.
import { SPACE, SPACES } from "./tokenizer.js";

const LETTER = "[\\p{L}\\p{N}_]"; // Python's \w
const escaped = text => text.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&");
const whole = texts => `(?<!${LETTER})(?:${texts.map(escaped).join("|")})(?!${LETTER})`;
const LONGEST = 1000; // letters; no model reads more

export class Names {
  // `things`: whole names; `words`: what a caption says besides; `qualities`: words that
  // do not say of what they are.
  constructor({ things, words, qualities }) {
    Object.assign(this, { things, qualities });
    const longest = [...things].sort((a, b) => b.length - a.length);
    // what a phrase ends at: a whole name, or another word of the captions
    const other = [`(?:${LETTER}|-)+ background`, whole(["left of", "right of", ...words]),
      `[^\\p{L}\\p{N}_${SPACE}\\-]+`];
    this.bounds = new RegExp(`(${whole(longest)})|(${other.join("|")})`, "iu");
  }

  // The things whose names have all these words; of an animal, just its face.
  named(words) {
    words = words.filter(word => word !== "of");
    if (words.every(word => this.qualities.includes(word))) return [];
    const has = name => words.every(word => name.split(/[\s-]/).includes(word));
    const face = `${words.join(" ")} face`;
    const found = this.things.filter(has);
    return found.includes(face) ? [face] : found;
  }

  // The text with whole names, and a line on each that is completed or unclear.
  complete(text) {
    if (text.length > LONGEST) return { text, notes: [] };
    const parts = text.replace(SPACES, " ").split(this.bounds); // phrase, name, other, phrase
    const notes = [];
    for (let i = 0; i < parts.length; i += 3) {
      if (parts[i - 2] || parts[i + 1]) continue; // it stands beside a whole name
      const words = parts[i].split(" ").filter(Boolean);
      const rest = words.map((_, first) => words.slice(first));
      const short = rest.find(some => this.named(some.map(word => word.toLowerCase())).length) ?? [];
      const found = short.length ? this.named(short.map(word => word.toLowerCase())) : [];
      const said = short.join(" ");
      const some = found.slice(0, 4).join(", ") + (found.length > 4 ? ", …" : "");
      if (found.length > 1) notes.push(`“${said}” may be any of ${some}: which one?`);
      if (found.length !== 1) continue;
      notes.push(`“${said}” is taken for “${found[0]}”.`);
      const at = parts[i].lastIndexOf(said);
      parts[i] = parts[i].slice(0, at) + found[0] + parts[i].slice(at + said.length);
      if (short.length === words.length && /^an?$/i.test(parts[i - 1] ?? ""))
        parts[i - 1] = parts[i - 1][0] + (/^[aeiou]/.test(found[0]) ? "n" : "");
    }
    return { text: parts.join(""), notes };
  }
}
