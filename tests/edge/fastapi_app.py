"""The application that README's ASGI example is, as people write it; tests run it with uvicorn."""

from fastapi import FastAPI, WebSocket

from realtime import NotificationPriority, realtime_hub, websocket_endpoint

app = FastAPI()


@app.on_event("startup")
async def startup():
    await realtime_hub.initialize()


@app.websocket("/ws/{user_id}")
async def ws(websocket: WebSocket, user_id: str):
    await websocket_endpoint(websocket, user_id)


@app.post("/notify/{user_id}")
async def notify(user_id: str):
    await realtime_hub.notification_manager.send_notification(
        user_id=user_id, title="Hi", content="there", priority=NotificationPriority.HIGH
    )
