"use strict";

/**
 * The tab of locks: who holds what and who waits, how long each session has left, and what happens to locks, as seen from
 * one look to the next. It is there once a member has the role voter. The node is asked only while the tab is open and seen.
 */
{
  const MOST = 200; // locks and sessions that are shown
  const MOST_CHANGES = 50;

  document.head.append(element("style", "", `
    #locks { flex: 1 0 auto; display: flex; flex-direction: column; gap: .6rem; min-width: 0; min-height: 18rem; }
    #locks .lists { flex: none; overflow-x: auto; display: flex; flex-direction: column; gap: .6rem; }
    #locks table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
    #locks :is(th, td) { position: static; width: auto; height: auto; text-align: left; padding: .15rem .5rem; white-space: nowrap; background: none; border-bottom: 1px solid var(--line); }
    #locks td { overflow: hidden; text-overflow: ellipsis; max-width: 24rem; }
    #locks thead th { writing-mode: horizontal-tb; transform: none; color: var(--quiet); font-size: inherit; }
    #locks h3 { margin: 0; font-size: .9rem; }
    #locks ol { margin: 0; padding: 0; list-style: none; overflow-wrap: anywhere; flex: 1 1 6rem; height: 0; min-height: 6rem; overflow: auto; font: 12.5px/1.5 var(--mono); }
  `));

  const hasVoters = () => ring.some(member => member.roles?.includes("voter"));
  const { panel } = newLookingTab("locks", "Locks", hasVoters, look, problem => {
    lists.classList.add("stale");
    say(sum, `Cannot ask for the locks: ${problem.message}`, "dead");
  });
  const sum = Object.assign(element("p"), { id: "held", role: "status" });
  const lists = element("div", "lists");
  const changes = Object.assign(element("ol"), { id: "lock-changes", tabIndex: 0 });
  changes.setAttribute("aria-label", "changes of locks, newest first");
  panel.append(sum, lists, element("h3", "", "Changes, as seen from here"), changes);

  let known = null; // the holders that were told last, by lock and token

  const who = ({ node, label, session }) => label ? `${label} (${node})` : `${session} (${node})`;
  const mode = ({ mode, permits }) => permits === undefined ? mode : `${mode} of ${permits}`;

  /** A table with these heads, and rows of texts; the last cell may have a class. */
  function table(name, heads, rows) {
    const all = element("table");
    all.setAttribute("aria-label", name);
    const head = all.createTHead().insertRow();
    for (const text of heads) head.append(Object.assign(element("th", "", text), { scope: "col" }));
    const body = all.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      for (const text of row) Object.assign(line.insertCell(), { textContent: text, title: text });
    }
    return all;
  }

  function tellChange(text, kind) {
    const clock = new Date().toTimeString().slice(0, 8);
    changes.prepend(element("li", kind, `${clock} ${text}`));
    if (changes.children.length > MOST_CHANGES) changes.lastChild.remove();
  }

  /** What has changed since the last answer. */
  function compare(locks) {
    const now = new Map();
    for (const { name, holders } of locks) for (const holder of holders) now.set(`${name} ${holder.token}`, [name, holder]);
    if (known) {
      for (const [key, [name, holder]] of known) if (!now.has(key)) tellChange(`${name} is no longer held by ${who(holder)}, token ${holder.token}`, "quiet");
      for (const [key, [name, holder]] of now) if (!known.has(key)) tellChange(`${name} is held by ${who(holder)}, token ${holder.token}`, "alive");
    }
    known = now;
  }

  function take({ locks, more }, { sessions, more: moreSessions }) {
    const waiting = locks.reduce((sum, lock) => sum + lock.waiting, 0);
    const some = more ? "more than " : "";
    say(sum, `${some}${locks.length} locks are held or waited for; ${waiting} wait; ${moreSessions ? "more than " : ""}${sessions.length} sessions.`, "");
    const held = locks.map(({ name, holders, waiting }) => {
      const first = holders[0];
      const others = holders.length > 1 ? ` and ${holders.length - 1} more` : "";
      return [name, first ? mode(first) : "–", first ? who(first) + others : "–", first ? String(first.token) : "–", String(waiting), first?.value ?? ""];
    });
    const alive = sessions.map(session => {
      const { ttl, left, holds, waits } = session;
      return [who(session), left === null ? "–" : `${left.toFixed(1)} of ${ttl} s`, holds.map(hold => hold.name).join(", "), waits.map(wait => wait.name).join(", ")];
    });
    lists.replaceChildren(
      table("locks", ["lock", "mode", "held by", "token", "waiting", "value"], held),
      table("sessions", ["session", "left", "holds", "waits for"], alive),
    );
    compare(locks);
  }

  async function look() {
    // What is selected is not taken away.
    if (!document.getSelection().isCollapsed) return;
    take(await api(`v1/locks?limit=${MOST}`), await api(`v1/sessions?limit=${MOST}`));
    lists.classList.remove("stale");
  }
}
