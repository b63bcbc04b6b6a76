"use strict";
// What both kinds of pages need: data that is unpacked, and buttons that copy.
document.documentElement.classList.add("js");
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const unpack = id => new Response(
  new Blob([bytes(document.getElementById(id).textContent.trim())]).stream().pipeThrough(new DecompressionStream("gzip"))
).json();
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
};
const copy = async text => {
  // pages that are opened over http have no clipboard interface
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = element("textarea", {style: "position:fixed;opacity:0"});
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("not allowed");
};
document.addEventListener("click", async event => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try {
    await copy(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Press Ctrl C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});
