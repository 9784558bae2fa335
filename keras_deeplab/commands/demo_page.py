"""The page of `keras-deeplab demo`. {title} and {count} stand for the model and its number of classes."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --back: #f6f7f9; --card: #ffffff; --text: #1b1f24; --dim: #5c6670; --line: #dde1e6;
  --blue: #2f6fde; --on-blue: #ffffff; --red: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #101317; --card: #191d23; --text: #e8eaed; --dim: #9aa4af;
  --line: #2c323a; --blue: #6aa0ff; --on-blue: #101317; --red: #ff8a80; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.35rem; margin: 8px 0 0; overflow-wrap: anywhere; }
p { margin: 4px 0 16px; color: var(--dim); }
#drop { display: block; border: 2px dashed var(--line); border-radius: 12px; background: var(--card); padding: 28px 16px;
  text-align: center; cursor: pointer; }
#drop.over, #drop:hover, #drop:focus-within { border-color: var(--blue); }
#drop input { position: absolute; opacity: 0; width: 1px; height: 1px; }
#drop b { color: var(--blue); }
#state { min-height: 1.45em; margin: 12px 0; color: var(--dim); overflow-wrap: anywhere; }
#state.error { color: var(--red); }
#result { display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 800px) { #result { grid-template-columns: minmax(0, 1fr) 240px; } }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; align-self: start; }
#stage { position: relative; line-height: 0; }
#stage img { width: 100%; border-radius: 8px; }
#labels { position: absolute; inset: 0; height: 100%; image-rendering: pixelated; }
.slider { display: flex; gap: 10px; align-items: center; margin-top: 12px; font-size: .9rem; color: var(--dim); }
.slider input { flex: 1; min-width: 0; height: 28px; accent-color: var(--blue); }
ul { list-style: none; margin: 0 0 16px; padding: 0; display: grid; gap: 4px 14px;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
li { display: flex; gap: 8px; align-items: center; font-size: .9rem; }
li i { flex: none; width: 14px; height: 14px; border-radius: 4px; border: 1px solid var(--line); }
a { display: block; padding: 10px 14px; margin-top: 8px; border-radius: 8px; background: var(--blue); color: var(--on-blue);
  text-align: center; text-decoration: none; }
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>Gives each pixel of a picture one of {count} classes. Pictures do not leave this machine.</p>
<label id="drop"><input type="file" accept="image/*"><b>Choose a picture</b> or drop one here</label>
<div id="state" role="status"></div>
<div id="result" hidden>
  <div class="card">
    <div id="stage"><img id="picture" alt="the picture"><img id="labels" alt="its label map"></div>
    <label class="slider">picture<input id="mix" type="range" value="50" aria-label="share of the labels">labels</label>
  </div>
  <div class="card">
    <ul id="legend"></ul>
    <a id="save-labels">Download the labels</a>
    <a id="save-overlay">Download the overlay</a>
  </div>
</div>
</main>
<script>
const get = id => document.getElementById(id), input = document.querySelector("#drop input");
let newest = 0;

function say(text, isError = false) {
  get("state").textContent = text;
  get("state").className = isError ? "error" : "";
}

async function label(file) {
  const number = ++newest, since = performance.now();
  say(`Labelling ${file.name} ...`);
  try {
    const response = await fetch("labels", { method: "POST", body: file });
    if (number !== newest) return;
    if (!response.ok) {
      say(response.status < 500 ? await response.text() : "The model failed. The terminal says why.", true);
      return;
    }
    show(await response.json(), file.name.replace(/[.][^.]*$/, ""));
    say(`${file.name}: ${((performance.now() - since) / 1000).toFixed(1)} seconds`);
  } catch (error) {
    if (number === newest) say("No answer. Is the command still running, and the picture still there?", true);
  }
}

function show(answer, stem) {
  get("picture").src = answer.picture;
  get("labels").src = answer.labels;
  get("legend").replaceChildren(...answer.legend.map(([colour, text]) => {
    const item = document.createElement("li"), square = document.createElement("i");
    square.style.background = colour ?? "none";
    item.append(square, text);
    return item;
  }));
  for (const [id, source, name] of [["save-labels", answer.labels, `${stem}.png`],
                                    ["save-overlay", answer.overlay, `${stem}_overlay.jpg`]])
    Object.assign(get(id), { href: source, download: name });
  get("result").hidden = false;
}

function mix() {
  get("labels").style.opacity = get("mix").value / 100;
}

get("mix").addEventListener("input", mix);
mix();
input.addEventListener("change", () => { if (input.files[0]) label(input.files[0]); input.value = ""; });
addEventListener("dragover", event => { event.preventDefault(); get("drop").classList.add("over"); });
addEventListener("dragleave", () => get("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  get("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) label(event.dataTransfer.files[0]);
  else say("That was no file. Drop a picture's file.", true);
});
</script>
</body>
</html>
"""
