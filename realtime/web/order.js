/**
 * One member's way through a room's order: each message once and in turn, and a gap for what cannot
 * be had. No network: what was missed and is not here yet stands in `wanted`; its owner fetches that
 * from the history and hands it to `page`. Pushes that come meanwhile wait behind it.
 *
 * @typedef {import("./room.js").Position} Position
 * @typedef {import("./room.js").Message} Message
 * @typedef {import("./room.js").Gap} Gap
 * @typedef {{ content: object, stage: object }} Ask  a page of history to ask for, and what it is for
 */

const UNCOUNTED = { from: null, to: null, reason: "epoch_changed" };

/** Fetch what lies between the position and offset `target`, or to the end of what there is. What the
 *  history lacks is a gap with `reason`. Where the order goes on in a new epoch, `turn` is where that
 *  begins, and `end` up to where it is to be filled; the loss between the two cannot be counted. */
class Fill {
  constructor(target, reason, turn = null, end = 0) {
    Object.assign(this, { target, reason, turn, end });
  }
}

/** Find where in the history the epoch of `end` begins, by halves: after `high` or before it, after
 *  `low`. A store's offsets go on over epochs and a memory's begin anew, so it is looked for. `first`
 *  is the epoch's first publication that was found. */
class Seek {
  constructor(end) {
    Object.assign(this, { end, high: end.offset, low: null, first: null });
  }

  get middle() {
    return this.low === null ? 0 : Math.floor((this.low + this.high) / 2);
  }
}

/** What comes next, what was here already, what is missing. */
export class Order {
  #sink;
  #limit;
  #stage = null;
  #later = []; // live messages, and gaps as { gap }, that wait for the stage to end
  #ended = false; // the server has said that the epoch of `position` has ended, and that is told
  #resuming = false;
  #whole = true; // nothing is missing since the room was joined again
  #missed = 0;

  /** @param {{ message(message: Message): void, gap(gap: Gap): void, free(): number,
   *            resumed(how: { recovered: boolean, missed: number }): void }} sink  who is told;
   *         `free` is how many messages it can take at once
   *  @param {number} limit of a page, and of what waits behind it */
  constructor(sink, limit) {
    this.#sink = sink;
    this.#limit = Math.max(limit, 1);
    /** @type {Position|null} the last message that was told, or where the room was joined; null where
     *  the server has not said */
    this.position = null;
  }

  /** @returns {Ask|null} the page that has to come next; null where nothing is missing */
  get wanted() {
    const stage = this.#stage;
    if (stage === null) return null;
    if (stage instanceof Seek) return { content: { after: stage.middle, limit: 1 }, stage };
    return { content: { after: this.position.offset, limit: this.#limit }, stage };
  }

  /** Take the answer to a join: the room is at `here`, null where the answer does not say. A room that
   *  was joined before goes on after `position`: with `messages` where they are all that was missed
   *  (`recovered`), else with what the history has.
   *  @param {Position|null} here */
  joined(here, recovered, messages) {
    const since = this.position;
    if (since === null) {
      this.position = here;
      return;
    }
    this.#stage = null;
    this.#later = []; // published after `position`, so they come again
    this.#resuming = true;
    this.#whole = true;
    this.#missed = 0;
    if (here === null && recovered) here = endOf(messages) ?? since; // they say where they lead
    if (here === null) {
      this.#stage = new Fill(null, "unrecoverable");
    } else if (here.epoch !== since.epoch) {
      this.#changeEpoch(here);
    } else if (here.offset < since.offset) {
      // Whatever it is that goes on here: we have seen more of its order than there is.
      this.#restart(here);
    } else {
      if (recovered) this.#take(messages);
      if (here.offset > this.position.offset) this.#stage = new Fill(here.offset, "unrecoverable");
    }
    if (this.#stage === null) this.#end();
  }

  /** Take a live message that has a place in the order. */
  push(message) {
    const here = this.position;
    const { offset, epoch } = message;
    if (this.#stage !== null) {
      this.#keep(message);
    } else if (here === null) {
      this.#deliver(message);
    } else if (epoch !== here.epoch) {
      this.#changeEpoch({ offset: Math.max(offset - 1, 0), epoch });
      this.push(message);
    } else if (offset === here.offset + 1) {
      this.#ended = false; // it goes on: what said so was on its way when we joined again
      this.#deliver(message);
    } else if (offset > here.offset) {
      this.#ended = false;
      this.#stage = new Fill(offset - 1, "lost");
      this.#keep(message);
    } // else it was here already: recovery and the live stream overlap
  }

  /** Take the server's word that something will not come; only what is new of it is told. Where it is
   *  an epoch that has ended, the next push says where the room goes on.
   *  @param {Gap} gap */
  gap(gap) {
    const here = this.position;
    if (this.#stage !== null) {
      this.#keep({ gap });
    } else if (this.#ended) {
      return; // of an epoch that we have seen nothing of: what is missing there will be looked for
    } else if (here === null || gap.to === null) {
      this.#ended = here !== null;
      this.#tell(gap);
    } else if (gap.from !== null && gap.from > here.offset + 1) {
      this.#stage = new Fill(gap.from - 1, "lost");
      this.#keep({ gap });
    } else {
      this.#skipTo(gap.to, gap.reason);
    }
  }

  /** Take the answer to `ask`; one of before the room was joined again is not looked at.
   *  @param {Ask} ask @param {{ messages?: Message[], more?: boolean }} found */
  page(ask, { messages = [], more = false }) {
    const stage = this.#stage;
    if (stage === null || stage !== ask.stage) return;
    if (stage instanceof Seek) this.#narrow(stage, messages[0]);
    else this.#fill(stage, messages, more);
  }

  /** The history is not to be had: what it should have filled is a gap. */
  giveUp(ask) {
    const stage = this.#stage;
    if (stage === null || stage !== ask.stage) return;
    if (stage instanceof Seek) {
      Object.assign(stage, { high: stage.end.offset, low: stage.end.offset - 1, first: null });
      this.#found(stage);
    } else {
      this.#fill(stage, [], false);
    }
  }

  // --- in one epoch -----------------------------------------------------------------------------

  /** Deliver what follows the position without a hole, as far as the reader has room for it. */
  #take(messages) {
    let free = this.#sink.free();
    for (const message of messages) {
      const here = this.position;
      if (message.epoch !== here.epoch || message.offset <= here.offset) continue;
      if (message.offset !== here.offset + 1 || free <= 0) return;
      this.#deliver(message);
      free -= 1;
    }
  }

  #fill(fill, messages, more) {
    const before = this.position.offset;
    for (const message of messages) this.#fillIn(fill, message);
    const exhausted = !more || this.position.offset === before;
    if (exhausted && fill.turn === null && fill.target !== null) this.#skipTo(fill.target, fill.reason);
    if (exhausted || (fill.target !== null && this.position.offset >= fill.target)) this.#filled(fill);
  }

  #fillIn(fill, message) {
    const here = this.position;
    if (!isPlaced(message) || message.offset <= here.offset) return;
    if (fill.turn === null) {
      if (message.epoch !== here.epoch) return;
      this.#skipTo(message.offset - 1, fill.reason);
      this.#deliver(message);
    } else if (message.epoch !== fill.turn.epoch) {
      // Several epochs may have gone by.
      if (message.epoch !== here.epoch) this.#restart({ offset: message.offset - 1, epoch: message.epoch });
      this.#deliver(message);
    }
  }

  #filled({ turn, end }) {
    if (turn !== null) this.#restart(turn);
    if (turn !== null && end > turn.offset) this.#stage = new Fill(end, "unrecoverable");
    else this.#end();
  }

  /** Nothing is missing any more: go on with what came meanwhile. */
  #end() {
    this.#stage = null;
    if (this.#resuming) {
      this.#resuming = false;
      this.#sink.resumed({ recovered: this.#whole, missed: this.#missed });
    }
    for (const item of this.#later.splice(0)) {
      if (item.gap) this.gap(item.gap);
      else this.push(item);
    }
  }

  // --- from one epoch to the next ---------------------------------------------------------------

  /** The room goes on at `here`, in a new epoch. What was published in it before is to be found. */
  #changeEpoch(here) {
    if (here.offset > 0) this.#stage = new Seek(here);
    else this.#restart(here);
  }

  #narrow(seek, first) {
    if (first && first.epoch !== seek.end.epoch) {
      seek.low = Math.max(seek.middle, Math.min(first.offset, seek.high) - 1);
    } else {
      seek.high = seek.middle;
      seek.first = first?.offset ?? null;
    }
    if (seek.high === 0 || (seek.low !== null && seek.high - seek.low <= 1)) this.#found(seek);
  }

  /** Take first what the old epoch still has after the position, then all of the new one. */
  #found({ end, first, low }) {
    const turn = first === null ? end : { offset: Math.min(first - 1, end.offset), epoch: end.epoch };
    this.#stage = new Fill(turn.offset, "epoch_changed", turn, end.offset);
    // The history may have nothing of the old one there.
    if (low === null || turn.offset <= this.position.offset) this.#filled(this.#stage);
  }

  #restart(here) {
    this.position = here;
    this.#whole = false;
    if (!this.#ended) this.#tell(UNCOUNTED);
    this.#ended = false;
  }

  // --- what the reader sees ---------------------------------------------------------------------

  #deliver(message) {
    this.position = { offset: message.offset, epoch: message.epoch };
    if (this.#resuming) this.#missed += 1;
    this.#sink.message(message);
  }

  /** Move on to `offset`; what lies between is a gap. */
  #skipTo(offset, reason) {
    const here = this.position;
    if (offset <= here.offset) return;
    this.position = { offset, epoch: here.epoch };
    this.#tell({ from: here.offset + 1, to: offset, reason });
  }

  #tell(gap) {
    this.#whole = false;
    this.#sink.gap(gap);
  }

  /** Let it wait. Of too many the oldest go: in their turn they are missing, and are fetched again. */
  #keep(item) {
    this.#later.push(item);
    if (this.#later.length > this.#limit) this.#later.shift();
  }
}

/** Has it a whole place in an order? Half a place is none. */
export function isPlaced({ offset, epoch }) {
  return typeof offset === "number" && typeof epoch === "string";
}

/** The place of the last message; null where there is none, or it has none. */
function endOf(messages) {
  const last = messages.at(-1);
  return last && isPlaced(last) ? { offset: last.offset, epoch: last.epoch } : null;
}
