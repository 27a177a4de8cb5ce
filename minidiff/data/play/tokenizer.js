// Words to numbers, as CLIP's tokenizer does it: chapter 06, `minidiff.tokenizer`.

export const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
export const SPACES = new RegExp(`[${SPACE}]+`, "gu");
const ENDINGS = "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d";
// a word is an ending, letters, one digit, or a run of marks
const WORDS = new RegExp(`${ENDINGS}|\\p{L}+|\\p{N}|[^\\p{L}\\p{N}${SPACE}]+`, "gu");

// NFC, lower case, one space between words.
export function clean(text) {
  text = text.normalize("NFC").replace(SPACES, " ");
  return Array.from(text, letter => letter.toLowerCase()).join("").replace(/^ | $/g, "");
}

// Pieces that no token reaches across.
export function splitWords(text) {
  const spelt = word => word.match(/^<\|(startoftext|endoftext)\|>$/);
  return (text.match(WORDS) ?? []).flatMap(word =>
    spelt(word) ? ["<|", spelt(word)[1], "|>"] : [word],
  );
}

// A printable character for every byte: itself, or if it has no ink, one from 256.
const inked = byte =>
  (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
const blank = Array.from({ length: 256 }, (_, byte) => byte).filter(b => !inked(b));
const letterOf = byte =>
  String.fromCharCode(inked(byte) ? byte : 256 + blank.indexOf(byte));

export class CLIPTokenizer {
  // `vocab`: {token: id}; `merges`: ["l o", ...] as they were learnt; `length`: ids a text.
  constructor({ vocab, merges, length, bos, eos, pad }) {
    Object.assign(this, { vocab, length, bos, eos, pad });
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.specials = [...new Set([bos, eos, pad])];
  }

  // Byte-pair encoding: of the pairs in a word, merge the one that was learnt first,
  // until none is known.
  merge(word) {
    let symbols = Array.from(new TextEncoder().encode(word), letterOf);
    symbols.push(symbols.pop() + "</w>");
    for (;;) {
      let [best, first] = [Infinity, -1];
      for (let i = 0; i + 1 < symbols.length; i++) {
        const rank = this.ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
        if (rank < best) [best, first] = [rank, i];
      }
      if (best === Infinity) return symbols;
      const [left, right] = [symbols[first], symbols[first + 1]];
      const merged = [];
      for (let i = 0; i < symbols.length; i++) {
        const pair = symbols[i] === left && symbols[i + 1] === right;
        merged.push(pair ? left + right : symbols[i]);
        if (pair) i++;
      }
      symbols = merged;
    }
  }

  // The text's tokens, without start and end.
  tokenize(text) {
    const escaped = this.specials.map(t => t.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&"));
    const parts = text.split(new RegExp(`(${escaped.join("|")})`));
    return parts.flatMap((part, i) =>
      i % 2 ? [part] : splitWords(clean(part)).flatMap(word => this.merge(word)),
    );
  }

  // A row of ids: start, the tokens that fit, end, padding.
  encode(text) {
    const end = this.vocab[this.eos];
    const ids = this.tokenize(text).map(token => this.vocab[token] ?? end);
    const row = [this.vocab[this.bos], ...ids.slice(0, this.length - 2), end];
    return [...row, ...Array(this.length - row.length).fill(this.vocab[this.pad])];
  }

  // Words that have to be spelt in pieces: the model has never met them.
  unknownWords(text) {
    for (const special of this.specials) text = text.replaceAll(special, " ");
    const words = splitWords(clean(text)).filter(
      word => /^\p{L}+$/u.test(word) || /[^\0-\x7f]/.test(word),
    );
    return [...new Set(words)].filter(word => this.merge(word).length > 1);
  }
}
