"""The order of a room in JavaScript does what the one in Python does, step by step."""

from typing import Any

import pytest_asyncio
from playwright.async_api import Page

from tests.client.order_model import Model

RUNS = 200

REPLAY = """async (runs) => {
  const { Order } = await import("/order.js");
  return runs.map(({ start, limit, steps }) => {
    const seen = [];
    const asks = [];
    let free = 0;
    let ask = null;
    const order = new Order({
      message: ({ offset, epoch }) => seen.push(["message", offset, epoch]),
      gap: ({ from, to, reason }) => seen.push(["gap", from, to, reason]),
      resumed: ({ recovered }) => seen.push(["resumed", recovered]),
      free: () => free,
    }, limit);
    order.joined(start, false, []);
    for (const [step, ...values] of steps) {
      if (step === "joined") {
        free = values.pop();
        order.joined(...values);
      } else if (step === "ask") {
        ask = order.wanted;
        asks.push(ask.content);
      } else if (step === "page") {
        order.page(ask, ...values);
      } else {
        order[step](...values);
      }
    }
    return { seen, asks, position: order.position, wanted: order.wanted };
  });
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def page(server: Any, open_page: Any) -> Page:
    page = await open_page()
    await page.goto(f"{server.url}/")
    return page


async def test_both_orders_say_the_same_over_any_run(page):
    models = []
    for seed in range(RUNS):
        model = Model(seed)
        start = {"offset": 0, "epoch": model.epoch}
        await model.run()
        models.append((model, start))
    runs = [
        {"start": start, "limit": model.inbox.limit // 4, "steps": model.order.steps}
        for model, start in models
    ]
    replayed = await page.evaluate(REPLAY, runs)
    for (model, _), run in zip(models, replayed, strict=True):
        assert run["seen"] == model.order.seen, f"seed {model.seed}"
        assert run["asks"] == [step[1] for step in model.order.steps if step[0] == "ask"], (
            f"seed {model.seed}"
        )
        place = {"offset": model.order.position.offset, "epoch": model.order.position.epoch}
        assert (run["position"], run["wanted"]) == (place, None), f"seed {model.seed}"
    told = {kind for model, _ in models for kind, *_ in model.order.seen}
    assert told == {"message", "gap", "resumed"}
