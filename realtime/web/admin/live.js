// The dashboard's WebSocket: `connect` with the key, overviews, and back again after it was lost.

const FLOOR_MS = 500;
const CAP_MS = 15000;
const SILENT_MS = 8000; // overviews come once a second

export class Live {
  // `on` has past, overview, state(name, text), and refused(message): the key will not do.
  constructor(key, on) {
    this.key = key;
    this.on = on;
    this.attempt = 0;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.on.state("waiting", "connecting");
    this.refusal = null;
    const socket = (this.socket = new WebSocket(`${scheme}//${location.host}/dashboard/live`));
    socket.onopen = () => socket.send(JSON.stringify({ type: "connect", content: { token: this.key } }));
    socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    socket.onclose = (event) => this.lost(event);
  }

  hear({ type, content }) {
    this.listen();
    if (type === "connected") {
      this.attempt = 0;
      this.on.state("live", "live");
      this.on.connected(content);
    } else if (type === "past") this.on.past(content);
    else if (type === "overview") this.on.overview(content);
    else if (type === "error") this.refusal = content;
  }

  listen() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.socket.close(), SILENT_MS);
  }

  lost({ code }) {
    clearTimeout(this.silence);
    if (this.closed) return;
    if (code >= 4500 || (this.refusal && !this.refusal.temporary)) {
      this.on.refused(this.refusal?.message ?? `the server closed it (${code})`);
      return;
    }
    const window = Math.min(CAP_MS, FLOOR_MS * 2 ** this.attempt);
    this.attempt += 1;
    const wait = (this.refusal?.retry_after ?? 0) * 1000 + FLOOR_MS + Math.random() * window;
    this.on.state("waiting", `again in ${Math.ceil(wait / 1000)} s`);
    this.retry = setTimeout(() => this.open(), wait);
  }

  close() {
    this.closed = true;
    clearTimeout(this.retry);
    clearTimeout(this.silence);
    this.socket.close();
  }
}
