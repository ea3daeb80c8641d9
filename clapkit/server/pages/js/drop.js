// A sound that is dropped on the page, or chosen with the button, becomes part of the query.

/** Call `take(file)` for every file that is dropped, chosen or pasted. */
export function listenToDrops({ veil, button, field, take }) {
  let inside = 0; // enter and leave come for every element on the way
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = (change) => {
    inside = Math.max(0, inside + change);
    veil.classList.toggle("shown", inside > 0);
  };
  addEventListener("dragenter", (event) => hasFile(event) && show(1));
  addEventListener("dragleave", (event) => hasFile(event) && show(-1));
  addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    inside = 0;
    show(0);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (file) take(file);
  });
  button.addEventListener("click", () => field.click());
  field.addEventListener("change", () => {
    if (field.files[0]) take(field.files[0]);
    field.value = ""; // so that the same file can be chosen again
  });
}
