// What a chat needs of the browser itself: sources that open at a press on [1], the cursor back in the input, a draft
// that outlives a visit to another page, a file to save, and a phone's sidebar that closes after a choice.
//
// The server says what it wants in `data`, with a number that grows: what was done already is not done again.

const INPUT = '[data-testid="stChatInputTextArea"]'
const DRAFTS = "tenfold-draft-"
const state = (window.tenfoldChat ??= { trigger: null, focus: 0, close: 0, saved: 0, conversation: null, box: null })

const input = () => document.querySelector(INPUT)
const narrow = () => window.matchMedia("(max-width: 767px)").matches
const touched = () => window.matchMedia("(pointer: coarse)").matches

function write(box, text) {
  // React keeps a value of its own; it has to see an event that says otherwise.
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, text)
  box.dispatchEvent(new Event("input", { bubbles: true }))
}

function openSource(event) {
  const link = event.target.closest?.('a[href*="#source-"]')
  if (!link || !state.trigger) return
  event.preventDefault()
  event.stopPropagation()
  state.trigger("source", link.getAttribute("href").split("#source-")[1])
}

function keepDraft(event) {
  if (!event.target.matches?.(INPUT) || state.conversation === null) return
  const key = DRAFTS + state.conversation
  if (event.target.value) sessionStorage.setItem(key, event.target.value)
  else sessionStorage.removeItem(key)
}

function whenThere(action, tries = 40) {
  const box = input()
  if (box) action(box)
  else if (tries) setTimeout(whenThere, 50, action, tries - 1)
}

function changeDraft(conversation, begun) {
  whenThere((box) => {
    const before = box === state.box ? state.conversation : null // a box that was drawn anew holds nothing
    state.box = box
    state.conversation = conversation
    const kept = sessionStorage.getItem(DRAFTS + conversation)
    if (before === conversation) {
      if (box.value) sessionStorage.setItem(DRAFTS + conversation, box.value)
      else sessionStorage.removeItem(DRAFTS + conversation) // it was sent
    } else if (before !== null && begun === conversation) {
      // The chat came about by asking; what is typed since then belongs to it.
      sessionStorage.removeItem(DRAFTS + before)
      if (box.value) sessionStorage.setItem(DRAFTS + conversation, box.value)
    } else if (box.value !== (kept ?? "")) {
      write(box, kept ?? "")
    }
  })
}

function focus() {
  if (touched()) return // it would open the keyboard over the answer
  const active = document.activeElement
  const busy = active?.matches?.('a[href*="#source-"], input, textarea, select, [contenteditable=true], [role=slider]')
  if (busy || document.querySelector('[role="dialog"]')) return
  whenThere((box) => box.focus({ preventScroll: true }))
}

function closeSidebar() {
  if (!narrow()) return
  const sidebar = document.querySelector('[data-testid="stSidebar"][data-collapsed="false"]')
  sidebar?.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click()
}

function save({ name, text }) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(new Blob([text], { type: "text/markdown" }))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}

if (!state.listening) {
  state.listening = true
  document.addEventListener("click", openSource, true)
  document.addEventListener("input", keepDraft, true)
}

export default function ({ data, setTriggerValue }) {
  state.trigger = setTriggerValue
  changeDraft(data.conversation, data.begun)
  if (data.focus !== state.focus) {
    state.focus = data.focus
    setTimeout(focus, 0) // after the page has drawn what it took away
  }
  if (data.close !== state.close) {
    if (state.close) closeSidebar()
    state.close = data.close
  }
  if (data.file && data.file.number !== state.saved) {
    state.saved = data.file.number
    save(data.file)
  }
}
