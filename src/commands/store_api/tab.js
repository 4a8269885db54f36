"use strict";

/**
 * The tab of the replicated store: who leads, how far each voter is, what its disk takes and how fast it is, and elections
 * as they happen. It is there once a member has the role voter. The node asked is asked for the store only while the tab is
 * open and seen: a node that does not vote has nothing to do with the store until somebody asks it.
 */
{
  const MOST_ELECTIONS = 50;
  const COLUMNS = {
    voter: "its name",
    state: "what it is to the store",
    lag: "entries of the log that it does not have yet, as the leader says",
    applied: "the last entry of the log that it has applied",
    revision: "the newest revision that it has",
    "on disk": "its log, with what is preallocated, and its newest snapshot",
    sync: "time to write to the log and sync it: the median of the last 128",
    longest: "the longest of them",
  };

  document.head.append(element("style", "", `
    #store { flex: 1 0 auto; display: flex; flex-direction: column; gap: .6rem; min-width: 0; min-height: 18rem; }
    #store .voters { flex: none; overflow-x: auto; }
    #store table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
    #store :is(th, td) { position: static; width: auto; height: auto; text-align: right; padding: .15rem .5rem; white-space: nowrap; background: none; border-bottom: 1px solid var(--line); }
    #store thead th { writing-mode: horizontal-tb; transform: none; color: var(--quiet); font-size: inherit; }
    #store :is(th, td):nth-child(-n + 2) { text-align: left; }
    #store h3 { margin: 0; font-size: .9rem; }
    #store :is(ol, ul) { margin: 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
    #store ol { flex: 1 1 6rem; height: 0; min-height: 6rem; overflow: auto; font: 12.5px/1.5 var(--mono); }
  `));

  const hasVoters = () => ring.some(member => member.roles?.includes("voter"));
  const { panel } = newLookingTab("store", "Store", hasVoters, look, problem => {
    voters.classList.add("stale");
    say(leads, `Cannot ask for the store: ${problem.message}`, "dead");
  });
  const leads = Object.assign(element("p"), { id: "leads", role: "status" });
  const size = element("p", "quiet");
  const problems = element("ul", "dead");
  const voters = element("div", "voters");
  const elections = Object.assign(element("ol"), { id: "elections", tabIndex: 0 });
  elections.setAttribute("aria-label", "elections, newest first");
  panel.append(leads, size, problems, voters, element("h3", "", "Elections, as seen from here"), elections);

  let cells = []; // a row a voter
  let store = null; // the id of the store that all of this is of
  let known = null; // the term and the leader that were told last
  let former = null; // who led last

  const bytes = count => {
    const unit = count < 1 << 10 ? 0 : count < 1 << 20 ? 1 : 2;
    return `${(count / 1024 ** unit).toFixed(unit ? 1 : 0)} ${["B", "KiB", "MiB"][unit]}`;
  };
  const ms = time => `${time.toFixed(time < 10 ? 2 : 0)} ms`;
  const number = value => value === undefined ? "–" : String(value);

  function stateOf({ problem, has_room, leads, votes }) {
    if (problem) return ["away", "dead"];
    if (has_room === false) return ["disk full", "dead"];
    return leads ? ["leads", "alive"] : votes ? ["follows", ""] : ["no vote", "suspect"];
  }

  function texts(voter) {
    const { name, lag, applied, revision, ephemeral, log_bytes, snapshot_bytes, syncs, sync_ms } = voter;
    const disk = ephemeral === undefined ? "–" : ephemeral ? "in memory" : bytes(log_bytes + snapshot_bytes);
    const sync = syncs && !ephemeral ? [ms(sync_ms.median), ms(sync_ms.longest)] : ["–", "–"];
    return [name, stateOf(voter)[0], ...[lag, applied, revision].map(number), disk, ...sync];
  }

  function buildTable(count) {
    const table = element("table");
    table.setAttribute("aria-label", "voters");
    const head = table.createTHead().insertRow();
    for (const [name, title] of Object.entries(COLUMNS)) head.append(Object.assign(element("th", "", name), { scope: "col", title }));
    const body = table.createTBody();
    cells = Array.from({ length: count }, () => {
      const line = body.insertRow();
      return Object.keys(COLUMNS).map(() => line.insertCell());
    });
    voters.replaceChildren(table);
  }

  /** Whatever has become of the leader since the last answer. */
  function takeElection({ term, leader }) {
    if (known?.term === term && known.leader === leader) return;
    const what = leader === null ? `nobody leads, in term ${term}` : `${leader} leads in term ${term}`;
    const after = former && leader && former !== leader ? `, after ${former}` : "";
    const clock = new Date().toTimeString().slice(0, 8);
    elections.prepend(element("li", leader === null ? "dead" : "", `${clock} ${what}${after}`));
    if (elections.children.length > MOST_ELECTIONS) elections.lastChild.remove();
    known = { term, leader };
    former = leader ?? former;
  }

  function take(status) {
    status.voters.sort((a, b) => natural(a.name, b.name));
    const { cluster, term, leader, revision } = status;
    if (cluster !== null && cluster !== store) {
      // Terms of another store begin anew.
      elections.replaceChildren();
      [store, known, former] = [cluster, null, null];
    }
    const best = status.voters.find(voter => voter.leads) ?? status.voters.find(voter => voter.bytes !== undefined);
    if (cluster === null) say(leads, "There is no store yet.", "suspect");
    else if (leader === null) say(leads, `Nobody leads, in term ${term}; revision ${revision}.`, "dead");
    else say(leads, `${leader} leads in term ${term}; revision ${revision}.`, "alive");
    const told = best && `${bytes(best.bytes)} of ${bytes(best.quota)} are taken by keys, with what they were before; ${best.leases} leases.`;
    say(size, told ?? "");
    problems.replaceChildren(...status.problems.map(problem => element("li", "", problem)));
    if (cells.length !== status.voters.length) buildTable(status.voters.length);
    // In place, so that a text can be selected.
    status.voters.forEach((voter, row) => {
      texts(voter).forEach((text, column) => say(cells[row][column], text, column === 1 ? stateOf(voter)[1] : ""));
    });
    if (cluster !== null) takeElection(status);
  }

  async function look() {
    take(await api("v1/store"));
    voters.classList.remove("stale");
  }
}
