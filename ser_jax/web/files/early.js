// Runs before anything is shown: a file that is dropped never replaces the page. page.js, which loads later, sets
// window.onFiles and is given what has been dropped by then.

window.early = [];
window.onFiles = (transfer) => window.early.push(transfer);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.getElementById("drop")?.classList.toggle("over-it", kind === "dragover");
    if (kind !== "drop") return;
    const items = [...event.dataTransfer.items];
    const folder = items.some((item) => item.webkitGetAsEntry?.()?.isDirectory);
    window.onFiles({ files: [...event.dataTransfer.files], folder });
  });
}
