"use strict";

/**
 * The timeline: a column a member, and for each message a row of who sent it, and one of who has it.
 *
 * The node asked tells what it has received itself; of the others it knows what they have acknowledged, and no more. What
 * nobody has told is not shown. It is drawn only while its tab is open. The page's own script, which comes after this one,
 * has the messages, the members and what they have acknowledged.
 */
const timeline = (() => {
  const MOST = 60; // messages that are shown
  const MOST_TEXT = 300; // characters of a key, and of a value
  const items = []; // oldest first: { message, rows: its elements, cells: by name, done }
  let columns = []; // the names of the members shown, from left to right
  let open = false;
  let changed = false;

  const box = () => $("timeline");

  function add(messages) {
    for (const message of messages) items.push({ message, rows: null, cells: new Map(), done: false });
    for (const { rows } of items.splice(0, items.length - MOST)) rows?.forEach(row => row.remove());
    changed = true;
  }

  function clear() {
    items.splice(0).forEach(({ rows }) => rows?.forEach(row => row.remove()));
    changed = true;
  }

  /** The members that are there, and those that have sent what is shown. */
  function names() {
    const senders = items.filter(({ message }) => !message.note).map(({ message }) => message.origin);
    const there = ring.filter(member => !gone(member)).map(member => member.name);
    return [...new Set([...there, ...senders])].sort(natural);
  }

  function row(...cells) {
    const line = element("div", "line");
    line.setAttribute("role", "row");
    line.append(...cells);
    return line;
  }

  /** A cell in the column of a member. Its text comes from the network, so it is only ever text. */
  function cell(name, text, role = "cell") {
    const at = columns.indexOf(name) + 1;
    const made = element("span", "", text);
    made.setAttribute("role", role);
    made.setAttribute("aria-colindex", at);
    made.style.gridColumn = at;
    made.title = text;
    return made;
  }

  /** What has happened to a message, in its sender's colour. */
  function happened(verb, name, message) {
    const [key, value] = [message.key, message.value].map(text => text.slice(0, MOST_TEXT));
    const made = cell(name, `${verb} key=${key} value=${value}`);
    made.className = verb;
    made.style.setProperty("--hue", `${columns.indexOf(message.origin) * 67 + 190}deg`);
    return made;
  }

  function build(item) {
    const { message } = item;
    if (message.note) {
      const note = element("span", `note ${message.className}`, message.note);
      note.setAttribute("role", "cell");
      item.rows = [row(note)];
      item.done = true;
    } else {
      item.rows = [row(happened("send", message.origin, message)), row()];
    }
    item.cells.clear();
    return item.rows;
  }

  /** Adds who has the message by now. */
  function fill(item) {
    const { message, cells } = item;
    const others = message.id === null ? [] : receivers(message.origin).map(member => member.name);
    const own = message.origin === self ? [] : [self];
    for (const name of new Set([...own, ...others])) {
      if (cells.has(name) || !columns.includes(name) || !hasIt(message, name)) continue;
      const made = happened(name === self ? "received" : "acknowledged", name, message);
      cells.set(name, made);
      item.rows[1].append(made);
    }
    item.done = message.id === null || others.length > 0 && others.every(name => cells.has(name));
  }

  /** Brings what is shown up to date. */
  function refresh() {
    if (!open || self === null) return;
    changed = false;
    const area = box();
    const atEnd = area.scrollTop + area.clientHeight >= area.scrollHeight - 30;
    const now = names();
    if (String(now) !== String(columns) || !area.firstChild) {
      columns = now;
      const table = element("div", columns.length > 12 ? "many" : "");
      table.setAttribute("role", "table");
      table.setAttribute("aria-labelledby", "timeline-tab");
      table.setAttribute("aria-colcount", columns.length);
      table.style.setProperty("--columns", columns.length);
      const head = row(...columns.map(name => cell(name, name === self ? `${name} says` : `${name} (others say)`, "columnheader")));
      head.classList.add("head");
      table.append(head);
      for (const item of items) Object.assign(item, { rows: null, done: false });
      area.replaceChildren(table);
    }
    const table = area.firstChild;
    for (const item of items) {
      if (!item.rows) table.append(...build(item));
      if (!item.done) fill(item);
    }
    if (atEnd) area.scrollTop = area.scrollHeight;
  }

  function show(wanted) {
    open = wanted;
    if (open) refresh();
    else box().replaceChildren();
  }

  return { add, clear, refresh, show, change: () => changed = true, isChanged: () => open && changed };
})();
