// A button that puts an answer on the clipboard, and says so.

const COPY = "M8 8V5.5A1.5 1.5 0 0 1 9.5 4H18.5A1.5 1.5 0 0 1 20 5.5V14.5A1.5 1.5 0 0 1 18.5 16H16M5.5 8H14.5A1.5 1.5 0 0 1 16 9.5V18.5A1.5 1.5 0 0 1 14.5 20H5.5A1.5 1.5 0 0 1 4 18.5V9.5A1.5 1.5 0 0 1 5.5 8Z"
const DONE = "M5 12.5 10 17.5 19.5 7"

async function toClipboard(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text)
  // Over plain HTTP from another machine there is no clipboard but that of a selected text.
  const area = document.createElement("textarea")
  area.value = text
  area.style.position = "fixed"
  area.style.opacity = "0"
  document.body.append(area)
  area.select()
  const done = document.execCommand("copy")
  area.remove()
  if (!done) throw new Error("refused")
}

export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button")
  const path = button.querySelector("path")
  const said = parentElement.querySelector("[role=status]")
  const draw = (shape, title) => {
    path.setAttribute("d", shape)
    button.title = title
  }
  draw(COPY, "Copy the answer")
  button.onclick = async () => {
    try {
      await toClipboard(data.text)
      draw(DONE, "Copied")
      said.textContent = "Copied"
    } catch {
      said.textContent = "The browser does not let it be copied"
    }
    setTimeout(() => {
      draw(COPY, "Copy the answer")
      said.textContent = ""
    }, 1500)
  }
}
