// Read every formula with KaTeX (the site) and MathJax (Jupyter, Colab, GitHub).
// In: JSON on standard input, [{tex, display}]. Out: JSON, [{index, engine, message}], one for each refusal.
import katex from "katex";
import mathjax from "mathjax";

let input = "";
for await (const chunk of process.stdin) input += chunk;

const more = ["boldsymbol", "cancel", "color"];  // what MathJax fetches by itself in a browser
const MathJax = await mathjax.init({
  loader: { load: ["input/tex", ...more.map(name => `[tex]/${name}`)] },
  // Without these four an unknown macro is an error, not red text, and nothing is fetched on demand.
  tex: { packages: { "[+]": more, "[-]": ["noerrors", "noundefined", "autoload", "require"] }, formatError: (_, error) => { throw error; } },
});
const strict = code => (code === "newLineInDisplayMode" ? "ignore" : "error");
const problems = [];
JSON.parse(input).forEach(({ tex, display }, index) => {
  try { katex.renderToString(tex, { displayMode: display, throwOnError: true, strict }); }
  catch (error) { problems.push({ index, engine: "KaTeX", message: error.message }); }
  try { MathJax.texReset(); MathJax.tex2mml(tex, { display }); }
  catch (error) { problems.push({ index, engine: "MathJax", message: error.message }); }
});
console.log(JSON.stringify(problems));
