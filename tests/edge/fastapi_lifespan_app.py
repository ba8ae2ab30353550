"""An application in FastAPI's present form, which says where its hub listens natively."""

from fastapi import FastAPI, WebSocket

from realtime import realtime_hub, websocket_endpoint

app = FastAPI(lifespan=realtime_hub.lifespan)


@app.websocket("/ws")
async def anybody(websocket: WebSocket):
    await websocket_endpoint(websocket)


@app.websocket("/ws/{user_id}")
async def somebody(websocket: WebSocket, user_id: str):
    await websocket_endpoint(websocket, user_id)


@app.get("/native")
async def native():
    return realtime_hub.url


@app.post("/notify/{user_id}")
async def notify(user_id: str, title: str = "Hi"):
    return await realtime_hub.notification_manager.send_notification(
        user_id=user_id, title=title, content="there"
    )
