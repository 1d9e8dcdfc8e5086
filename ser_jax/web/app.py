"""The routes: the page, the JSON interface, and its description at /openapi.json."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fastapi
import pydantic
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from ser_jax import __version__
from ser_jax.features.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, MIN_SECONDS
from ser_jax.features.pcm import BadAudio
from ser_jax.prediction.timeline_files import TEXTS
from ser_jax.runtime.errors import UserError
from ser_jax.web import answer, page_files, uploads
from ser_jax.web.engine import Engine
from ser_jax.web.guard import Guard
from ser_jax.web.limits import Limits, PerClient, Queue, Rate, Refusal, client_of
from ser_jax.web.live_sessions import Sessions

_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "WAV, FLAC, Ogg or MP3.",
                    },
                    "classes": {
                        "type": "string",
                        "description": "Classes to choose from: angry,sad. Default: all.",
                    },
                    "threshold": {
                        "type": "string",
                        "description": "Probability in [0, 1] below which no class is named.",
                    },
                    "files": {
                        "type": "string",
                        "description": f"Files of the timeline: any of {', '.join(TEXTS)}.",
                    },
                },
            }
        }
    },
}


class Reason(pydantic.BaseModel):
    """Why a request was refused."""

    reason: str = pydantic.Field(description="One sentence.")
    kind: str | None = pydantic.Field(
        default=None, description="For recordings: unreadable, silent, too long, …"
    )


class Model(pydantic.BaseModel):
    """The models, and the limits of uploads."""

    description: str
    system: str
    classes: list[str]
    live: bool = pydantic.Field(description="Whether /api/live predicts while somebody speaks.")
    live_reason: str = pydantic.Field(description="Why it does not; empty if it does.")
    card: list[str] = pydantic.Field(
        description="From the model card: data, what the model cannot do, licences."
    )
    limits: dict[str, float]


class Health(pydantic.BaseModel):
    """What the server is doing."""

    status: str
    uploads: int = pydantic.Field(description="Uploads that wait or are worked on.")
    live_sessions: int


def make_app(
    engine: Engine, limits: Limits, folder: Path, names: Iterable[str] | None
) -> fastapi.FastAPI:
    """Makes the application.

    Args:
      engine: The models.
      limits: What is let through.
      folder: Where uploads are kept while they are decoded.
      names: Host names that it answers to; None: any.

    Returns:
      An ASGI application.
    """
    app = fastapi.FastAPI(
        title="ser_jax",
        version=__version__,
        description="Names the emotion of speech.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guard, names=names)
    _add_error_handlers(app)
    waiting, rate, sessions = Queue(limits.queue), Rate(limits.per_minute), Sessions(engine, limits)
    of_client = PerClient(limits.per_client, "upload")
    refusals: dict[int | str, Any] = {
        code: {"model": Reason} for code in (400, 403, 408, 413, 415, 422, 429, 500, 503)
    }

    @app.get("/api/health")
    async def health() -> Health:
        """Returns the state of the server."""
        return Health(status="ready", uploads=waiting.count, live_sessions=sessions.count)

    @app.get("/api/model")
    async def model() -> Model:
        """Returns which models predict, and the limits of uploads."""
        predictor = engine.predictor
        return Model(
            description=engine.description,
            system=predictor.config.system,
            classes=list(predictor.classes),
            live=not engine.not_live,
            live_reason=engine.not_live,
            card=engine.notes,
            limits={
                "max_mb": limits.max_mb,
                "min_seconds": MIN_SECONDS,
                "max_seconds": engine.max_seconds,
                "max_timeline_seconds": engine.max_timeline_seconds,
                "min_rate": MIN_RATE,
                "max_rate": MAX_RATE,
                "max_channels": MAX_CHANNELS,
                "per_minute": limits.per_minute,
                "live_seconds": limits.live_seconds,
            },
        )

    @app.post("/api/predict", responses=refusals, openapi_extra={"requestBody": _FORM})
    async def predict(request: fastapi.Request) -> answer.Answer:
        """Names the emotion of a recording."""
        client = client_of(request.client)
        rate.count(client)
        with contextlib.ExitStack() as places:
            places.enter_context(of_client.place(client))
            waiting.check()
            async with uploads.receive(
                request,
                folder,
                max_bytes=limits.max_mb * 10**6,
                seconds=limits.upload_seconds,
                silent_seconds=limits.silent_seconds,
            ) as upload:
                # Only now, so that clients which send slowly, or nothing, take no place.
                places.enter_context(waiting.place())
                decision, formats = _decision(engine, upload), _formats(upload)
                with _unusable():
                    try:
                        recording = await engine.decode(upload.path)
                    except Refusal as error:
                        if error.kind != "too long":
                            raise
                        gone = request.is_disconnected
                        return await answer.make_long(engine, upload.path, decision, formats, gone)
            with _unusable():
                return await answer.make(engine, recording, decision, formats)

    @app.websocket("/api/live")
    async def live(websocket: fastapi.WebSocket) -> None:
        refused = ""
        try:
            rate.count(client_of(websocket.client))
        except Refusal as error:
            refused = error.reason
        await sessions.hold(websocket, refused)

    for name in page_files.FILES:
        content, kind = page_files.read(name)
        app.add_api_route(
            "/" if name == page_files.INDEX else f"/{name}",
            _sender(content, kind),
            include_in_schema=False,
        )
    return app


def _sender(content: bytes, kind: str) -> Any:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send


@contextlib.contextmanager
def _unusable() -> Iterator[None]:
    """Refuses recordings whose samples cannot be used."""
    try:
        yield
    except UserError as error:
        kind = error.__cause__.reason if isinstance(error.__cause__, BadAudio) else None
        raise Refusal(422, str(error), kind) from None


def _formats(upload: uploads.Upload) -> list[str]:
    formats = [name.strip() for name in upload.fields.get("files", "").split(",") if name.strip()]
    for name in formats:
        if name not in TEXTS:
            raise Refusal(400, f"files={name[:80]} is no format; choose any of {', '.join(TEXTS)}")
    return formats


def _decision(engine: Engine, upload: uploads.Upload) -> Any:
    text = upload.fields.get("threshold", "").strip()
    try:
        threshold = float(text or 0)
    except ValueError:
        raise Refusal(
            400, f"threshold={text[:80]} is no number; send a probability in [0, 1], such as 0.5"
        ) from None
    try:
        return engine.predictor.decision(upload.fields.get("classes", "").split(","), threshold)
    except UserError as error:
        raise Refusal(400, str(error)) from None


def _add_error_handlers(app: fastapi.FastAPI) -> None:
    """Has every error answered with JSON that holds a reason."""

    async def refuse(request: fastapi.Request, error: Any) -> Response:
        del request
        return JSONResponse(error.body, error.status, error.headers)

    async def no_route(request: fastapi.Request, error: Any) -> Response:
        reason = (
            f"{request.method} {request.url.path[:80]}: {error.detail}; /openapi.json lists what"
            " there is"
        )
        return JSONResponse({"reason": reason}, error.status_code, error.headers)

    async def defect(request: fastapi.Request, error: Exception) -> Response:
        del request, error  # it is logged with its traceback
        return JSONResponse(
            {"reason": "the server has a defect, which it has written to its log"}, 500
        )

    app.add_exception_handler(Refusal, refuse)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, defect)
