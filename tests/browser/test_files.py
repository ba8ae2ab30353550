"""Attachments by a page's own `fetch`: sent in two parts, shown as an image, and nothing that could run."""

from collections.abc import Callable
from typing import Any

from tests.features.chat.uploader import SECRET, picture

RUN = """async ([bytes, wsUrl]) => {
  const socket = new WebSocket(wsUrl);
  await new Promise((resolve) => { socket.onopen = resolve; });
  let asked = 0;
  const ask = (type, content) => new Promise((resolve) => {
    const id = asked += 1;
    const hear = ({ data }) => {
      for (const line of data.split("\\n").filter(Boolean)) {
        const answer = JSON.parse(line);
        if (answer.id === id) { socket.removeEventListener("message", hear); resolve(answer.content); }
      }
    };
    socket.addEventListener("message", hear);
    socket.send(JSON.stringify({ type, id, room: "chat:lobby", content }));
  });
  await ask("join", {});
  const file = new Uint8Array(bytes);
  const upload = async (name, file) => {
    const { id, url } = await ask("chat_upload", { name, bytes: file.length });
    const tus = { "Tus-Resumable": "1.0.0" };
    const patch = { ...tus, "Content-Type": "application/offset+octet-stream" };
    const half = file.length >> 1;
    const send = (from, body) =>
      fetch(url, { method: "PATCH", body, headers: { ...patch, "Upload-Offset": from } });
    const first = await send(0, file.slice(0, half));
    const head = await fetch(url, { method: "HEAD", headers: tus });
    const offset = Number(head.headers.get("Upload-Offset"));
    const second = await send(offset, file.slice(offset));
    const said = await ask("chat_message", { text: name, attachments: [id] });
    const found = await ask("chat_attachment", { id });
    return { statuses: [first.status, head.status, second.status], half, offset, said, found };
  };
  const image = await upload("a.png", file);
  const shown = new Image();
  shown.src = image.found.url;
  await shown.decode();
  const svg = await upload("a.svg", new TextEncoder().encode(
    "<svg xmlns='http://www.w3.org/2000/svg' width='5' height='5'><script>alert(1)</script></svg>"));
  const refused = new Image();
  refused.src = svg.found.url;
  const svgShown = await refused.decode().then(() => true, () => false);
  socket.close();
  return { statuses: image.statuses, resumed: image.offset === image.half,
           size: [shown.naturalWidth, shown.naturalHeight], svgShown };
}"""


async def test_a_page_sends_a_picture_in_two_parts_and_shows_it(
    serve: Callable[..., Any], open_page: Any, tmp_path: Any
):
    server = serve(sqlite_path=str(tmp_path / "rooms.sqlite"), chat_url_secret=SECRET)
    page = await open_page()
    await page.goto(f"{server.url}/")
    found = await page.evaluate(RUN, [list(picture("PNG", (64, 48))), f"{server.ws_url}/al"])
    assert found == {"statuses": [204, 200, 204], "resumed": True, "size": [64, 48], "svgShown": False}
