"""/docs: the API as a page, rendered from the OpenAPI description without any third-party script."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from review.access.auth import Reader
from review.templating import render_page

router = APIRouter(include_in_schema=False)
METHODS: Final = ("get", "post", "put", "patch", "delete")


@router.get("/docs")
def docs_page(request: Request, user: Reader) -> Response:
    described: dict[str, Any] = request.app.openapi()
    routes = [
        {"method": method.upper(), "path": path, **operations[method]}
        for path, operations in described["paths"].items()
        for method in METHODS
        if method in operations
    ]
    return render_page(
        request, "docs.html", routes=routes, schemas=described["components"]["schemas"], type_name=type_name
    )


def type_name(schema: dict[str, Any]) -> str:
    """Return a short name for a JSON schema, for people."""
    if reference := schema.get("$ref"):
        return str(reference).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(type_name(one) for one in choices)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {type_name(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "anything")
