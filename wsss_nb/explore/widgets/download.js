// Hands a file, or a text for the clipboard, to the person at the browser: Python sends it once, nothing of it stays.
function initialize({ model }) {
  model.on("msg:custom", (what, buffers) => {
    if (what.kind === "copy") {
      navigator.clipboard?.writeText(what.text).catch((e) => console.warn("The clipboard is closed:", e));
    } else if (what.kind === "save") {
      const url = URL.createObjectURL(new Blob(buffers, { type: what.type })), a = document.createElement("a");
      Object.assign(a, { href: url, download: what.name });
      a.click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
    }
  });
}
export default { initialize, render() {} };
