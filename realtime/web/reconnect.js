/** When a client may come back, and after how long: pure functions. */

/** The peer finds our frames wrong, or is done with us: the next attempt would end the same way. */
const FINAL_CLOSE_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);

/**
 * Milliseconds to wait before reconnect attempt `attempt` (0 is the first): full jitter over a
 * window that doubles with every attempt, on top of the floor that the server asked for.
 *
 * @param {number} attempt
 * @param {{ min: number, max: number }} window
 * @param {number} capMs the jitter's own upper bound
 * @param {() => number} random uniform in [0, 1)
 */
export function backoffMs(attempt, window, capMs, random) {
  const width = Math.max(window.max - window.min, 0);
  const spread = Math.min(width * 2 ** Math.min(attempt, 30), Math.max(capMs, width));
  return window.min + random() * spread;
}

/** A close code's class: may the client come back? 4500–4999 and RFC 6455's verdicts say no. */
export function mayReconnect(code) {
  return !FINAL_CLOSE_CODES.has(code) && !(code >= 4500 && code <= 4999);
}

/** `{"r":"drain","min":500,"max":15000}` as a close reason; anything else reads as no advice. */
export function readCloseReason(reason) {
  const advice = { text: reason, window: null };
  try {
    const { r, min, max } = JSON.parse(reason);
    if (typeof r === "string") advice.text = r;
    if (min >= 0 && max >= min) advice.window = { min, max };
  } catch {
    // Plain text or nothing at all: both are allowed, and carry no window.
  }
  return advice;
}
