// Downloads a file or copies a text to the clipboard. Python sends it once, and nothing is kept.
function initialize({ model }) {
  model.on("msg:custom", (what, buffers) => {
    if (what.kind === "copy") {
      navigator.clipboard?.writeText(what.text).catch((e) => console.warn("The browser refused access to the clipboard:", e));
    } else if (what.kind === "save") {
      const url = URL.createObjectURL(new Blob(buffers, { type: what.type })), a = document.createElement("a");
      Object.assign(a, { href: url, download: what.name });
      a.click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
    }
  });
}
export default { initialize, render() {} };
